/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* A service load balancer at sockets, as those of data planes without kube-proxy are: the address a process asks for is
 * replaced before any packet is made, and put back where the process looks at who answered. For the tests only. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct place {
	__be32 address[4];
	__be32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct place);
	__type(value, struct place);
} forward SEC(".maps"), back SEC(".maps");

static __always_inline int four(struct bpf_sock_addr *ctx, void *table)
{
	struct place asked = {.address = {0, 0, bpf_htonl(0xffff), ctx->user_ip4}, .port = ctx->user_port}, *other;

	other = bpf_map_lookup_elem(table, &asked);
	if (other) {
		ctx->user_ip4 = other->address[3];
		ctx->user_port = other->port;
	}
	return 1;
}

static __always_inline int six(struct bpf_sock_addr *ctx, void *table)
{
	struct place asked = {
		.address = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
		.port = ctx->user_port,
	}, *other;

	other = bpf_map_lookup_elem(table, &asked);
	if (other) {
		ctx->user_ip6[0] = other->address[0];
		ctx->user_ip6[1] = other->address[1];
		ctx->user_ip6[2] = other->address[2];
		ctx->user_ip6[3] = other->address[3];
		ctx->user_port = other->port;
	}
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx) { return four(ctx, &forward); }

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx) { return six(ctx, &forward); }

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx) { return four(ctx, &forward); }

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx) { return six(ctx, &forward); }

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx) { return four(ctx, &back); }

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx) { return six(ctx, &back); }
