/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What tcp.bpf.c and drops.bpf.c tell of a tuple in a namespace. Python's copy is src/ringfence/capture/facts.py. */
#ifndef RINGFENCE_FACTS_H
#define RINGFENCE_FACTS_H

#include "sock.h"

/* Unlike skc_num this port is still there when the socket closes. */
struct inet_sock {
	__be16 inet_sport;
} __attribute__((preserve_access_index));

struct net_device {
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	char cb[48];
	__u16 network_header;
	unsigned char *head;
} __attribute__((preserve_access_index));

/* src is whose packets these were. IPv4 as ::ffff:a.b.c.d. */
struct fact_key {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u32 netns;
	__u8 protocol, pad[3];
};

struct fact {
	__u32 srtt_us, retransmits, drops, pad;
};

/* The least recently told is given up when it is full: memory and work stay bounded. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fact_key);
	__type(value, struct fact);
} facts SEC(".maps");

static __always_inline int describe(struct sock *sk, struct fact_key *key)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	key->sport = BPF_CORE_READ((struct inet_sock *)sk, inet_sport);
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

#endif
