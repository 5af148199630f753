/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which address a process asked for, where another program gave it another one at its socket: service load balancing by
 * cgroup hooks, which leaves no trace in conntrack or on the wire.
 *
 * cgroup/connect and cgroup/sendmsg run before any other program there and note what was asked; they change nothing.
 * What was given is in the socket itself: of TCP once it has its port (inet_sock_set_state leaves SYN_SENT), of UDP with
 * a peer when it sends (sock_send_length). Only where the two differ is anything told. A datagram to an address of its
 * own leaves no address in the socket, so there it is told what was asked, of sockets whose port the kernel chose:
 * those that were bound to one are servers, which would tell of each of their clients.
 *
 * Needs the kernel's BTF and Linux 6.3; where those are missing nothing is told and the agent says so. */
#include <linux/bpf.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "sock.h"

#define BOUND_TO_PORT 8 /* SOCK_BINDPORT_LOCK */

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;

/* Addresses are IPv6, IPv4 as ::ffff:a.b.c.d. Without a given address (a datagram's own) dst and dport are 0, and the
 * asked one is in the key, since one socket asks for many. */
struct pair {
	__be32 src[4], dst[4], asked[4];
	__be16 sport, dport, asked_port;
	__u8 protocol, pad;
	__u32 netns;
};

/* CLOCK_MONOTONIC, ns; closed is 0 while the socket lives, as far as that is told (TCP). */
struct times {
	__u64 at, closed;
};

struct asking {
	__be32 addr[4];
	__be16 port;
	__u8 rewritten, pad;
	__u32 sent_port; /* the last datagram's own: asked address below */
	__be32 sent[4];
	__u64 tick;
	struct pair pair;
	struct times times;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct asking);
} asking SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct pair);
	__type(value, struct times);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} missed SEC(".maps");

static __always_inline void tell(const struct pair *pair, const struct times *times)
{
	__u32 zero = 0;
	__u64 *count;

	if (!bpf_map_update_elem(&pairs, pair, times, BPF_ANY))
		return;
	count = bpf_map_lookup_elem(&missed, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline int describe(struct sock *sk, struct pair *pair)
{
	__u16 family = sk->__sk_common.skc_family;

	pair->protocol = sk->sk_protocol;
	pair->sport = bpf_htons(sk->__sk_common.skc_num);
	pair->dport = sk->__sk_common.skc_dport;
	pair->netns = sk->__sk_common.skc_net.net->ns.inum;
	if (family == AF_INET) {
		pair->src[2] = pair->dst[2] = bpf_htonl(0xffff);
		pair->src[3] = sk->__sk_common.skc_rcv_saddr;
		pair->dst[3] = sk->__sk_common.skc_daddr;
		return 0;
	}
	if (family != AF_INET6)
		return -1;
	BPF_CORE_READ_INTO(&pair->src, sk, __sk_common.skc_v6_rcv_saddr);
	BPF_CORE_READ_INTO(&pair->dst, sk, __sk_common.skc_v6_daddr);
	return 0;
}

static __always_inline int connects(struct bpf_sock_addr *ctx, __be32 one, __be32 two, __be32 three, __be32 four)
{
	struct asking *mine;

	if (!ctx->sk || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return 1;
	mine = bpf_sk_storage_get(&asking, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine)
		return 1;
	mine->addr[0] = one;
	mine->addr[1] = two;
	mine->addr[2] = three;
	mine->addr[3] = four;
	mine->port = ctx->user_port;
	mine->rewritten = 0;
	mine->tick = 0;
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return connects(ctx, 0, 0, bpf_htonl(0xffff), ctx->user_ip4);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return connects(ctx, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
}

static __always_inline int sends_to(struct bpf_sock_addr *ctx, __be32 one, __be32 two, __be32 three, __be32 four)
{
	struct times times = {.at = bpf_ktime_get_ns()};
	__u64 tick = bpf_jiffies64();
	struct pair pair = {};
	struct asking *mine;
	struct sock *sk;

	if (!ctx->sk || ctx->protocol != IPPROTO_UDP)
		return 1;
	sk = bpf_rdonly_cast(ctx->sk, bpf_core_type_id_kernel(struct sock));
	if (BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & BOUND_TO_PORT)
		return 1;
	mine = bpf_sk_storage_get(&asking, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (mine && mine->sent_port == ctx->user_port && mine->sent[0] == one && mine->sent[1] == two &&
	    mine->sent[2] == three && mine->sent[3] == four && tick - mine->tick < AGAIN)
		return 1;
	pair.asked[0] = one;
	pair.asked[1] = two;
	pair.asked[2] = three;
	pair.asked[3] = four;
	pair.asked_port = ctx->user_port;
	pair.protocol = IPPROTO_UDP;
	pair.sport = bpf_htons(sk->__sk_common.skc_num);
	pair.netns = sk->__sk_common.skc_net.net->ns.inum;
	tell(&pair, &times);
	if (mine) {
		__builtin_memcpy(mine->sent, pair.asked, sizeof(pair.asked));
		mine->sent_port = ctx->user_port;
		mine->tick = tick;
	}
	return 1;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return sends_to(ctx, 0, 0, bpf_htonl(0xffff), ctx->user_ip4);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return sends_to(ctx, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
}

/* Whether the socket was given another address than it asked for; both are in mine->pair then. */
static __always_inline int is_rewritten(struct sock *sk, struct asking *mine)
{
	struct pair pair = {};

	if (describe(sk, &pair))
		return 0;
	if (pair.dport == mine->port && pair.dst[0] == mine->addr[0] && pair.dst[1] == mine->addr[1] &&
	    pair.dst[2] == mine->addr[2] && pair.dst[3] == mine->addr[3])
		return 0;
	__builtin_memcpy(pair.asked, mine->addr, sizeof(pair.asked));
	pair.asked_port = mine->port;
	mine->pair = pair;
	return 1;
}

SEC("tp_btf/inet_sock_set_state")
int settled(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int before = ctx[1], after = ctx[2];
	struct asking *mine;

	if (before != TCP_SYN_SENT && after != TCP_CLOSE)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	mine = bpf_sk_storage_get(&asking, sk, 0, 0);
	if (!mine)
		return 0;
	if (before == TCP_SYN_SENT && mine->port) {
		mine->rewritten = is_rewritten(sk, mine);
		mine->times.at = bpf_ktime_get_ns();
		mine->times.closed = 0;
	}
	if (!mine->rewritten)
		return 0;
	if (after == TCP_CLOSE)
		mine->times.closed = bpf_ktime_get_ns();
	tell(&mine->pair, &mine->times);
	return 0;
}

SEC("tp_btf/sock_send_length")
int sent(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	__u16 family = sk->__sk_common.skc_family;
	struct asking *mine;
	__u64 tick;

	if ((family != AF_INET && family != AF_INET6) || sk->sk_protocol != IPPROTO_UDP || (int)ctx[1] < 0 ||
	    !sk->__sk_common.skc_dport)
		return 0;
	mine = bpf_sk_storage_get(&asking, sk, 0, 0);
	if (!mine || !mine->port)
		return 0;
	tick = bpf_jiffies64();
	if (mine->tick && tick - mine->tick < AGAIN)
		return 0;
	mine->tick = tick;
	if (!is_rewritten(sk, mine))
		return 0;
	mine->times.at = bpf_ktime_get_ns();
	tell(&mine->pair, &mine->times);
	return 0;
}
