/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Names the process that opens a TCP conversation, from the raw tracepoint inet_sock_set_state.
 *
 * connect(2) runs in the opener's context when the state becomes SYN_SENT, but the socket has no port yet
 * then; when it leaves that state it has, but somebody else is running. So the first step remembers who,
 * by socket, and the second writes (tuple, namespace) -> who. Needs the kernel's BTF for field offsets; where
 * that is missing, nobody is named and the agent says so. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define TCP_SYN_SENT 2

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Only the fields read here; their places in this kernel are filled in when the program is loaded. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct conversation {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u32 netns;
};

struct opener {
	__u32 pid, pad;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct opener);
} opening SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct conversation);
	__type(value, struct opener);
} conversations SEC(".maps");

static __noinline int describe(struct sock *sk, struct conversation *key)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	key->sport = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
	key->dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	key->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (family == AF_INET) {
		key->src[2] = key->dst[2] = bpf_htonl(0xffff);
		key->src[3] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		key->dst[3] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		return 0;
	}
	if (family != AF_INET6)
		return -1;
	/* A dual-stack socket talking IPv4 holds the mapped addresses here, which is how we write them too. */
	BPF_CORE_READ_INTO(&key->src, sk, __sk_common.skc_v6_rcv_saddr);
	BPF_CORE_READ_INTO(&key->dst, sk, __sk_common.skc_v6_daddr);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int process(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	__u64 id = (__u64)sk;
	int before = ctx->args[1], after = ctx->args[2];
	struct conversation key = {};
	struct opener who = {}, *known;

	if (after == TCP_SYN_SENT) {
		if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol) != IPPROTO_TCP)
			return 0;
		who.pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(who.comm, sizeof(who.comm));
		bpf_map_update_elem(&opening, &id, &who, BPF_ANY);
	} else if (before == TCP_SYN_SENT) {
		known = bpf_map_lookup_elem(&opening, &id);
		if (!known)
			return 0;
		if (!describe(sk, &key))
			bpf_map_update_elem(&conversations, &key, known, BPF_ANY);
		bpf_map_delete_elem(&opening, &id);
	}
	return 0;
}
