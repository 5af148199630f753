/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose packets the kernel drops, from the raw tracepoint kfree_skb, which says why since 5.17.
 *
 * Only reasons that mean "this packet was to go on and did not" are told. Left out are those of TCP's own working (old
 * data, windows), of nobody listening (the answer to the packet says that better) and the unspecified one. Needs the
 * kernel's BTF: numbers of reasons differ between versions. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "facts.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define REASONS(_)                                                                                               \
	_(NETFILTER_DROP) _(SOCKET_FILTER) _(SOCKET_RCVBUFF) _(SOCKET_BACKLOG) _(PROTO_MEM) _(TCP_CSUM)          \
	_(UDP_CSUM) _(IP_CSUM) _(ICMP_CSUM) _(SKB_CSUM) _(IP_INHDR) _(IP_RPFILTER) _(XFRM_POLICY) _(QDISC_DROP)  \
	_(TC_INGRESS) _(TC_EGRESS) _(XDP) _(CPU_BACKLOG) _(FULL_RING) _(NOMEM) _(NEIGH_FAILED)                   \
	_(NEIGH_QUEUEFULL) _(NEIGH_DEAD) _(IP_OUTNOROUTES) _(IP_INNOROUTES) _(IP_LOCALNET) _(IP_INVALID_SOURCE)  \
	_(BPF_CGROUP_EGRESS)

#define ENUMERATOR(name) SKB_DROP_REASON_##name,
enum skb_drop_reason { REASONS(ENUMERATOR) };

#define SAME(name)                                                                              \
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_##name) &&         \
	    reason == (__u32)bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_##name)) \
		return 1;

static __always_inline int is_drop(__u32 reason)
{
	REASONS(SAME)
	return 0;
}

/* The addresses and protocol of a packet; where its transport header begins, or null. */
static __always_inline unsigned char *parse(unsigned char *at, struct fact_key *key)
{
	struct ipv6hdr ip6;
	struct iphdr ip;

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
		return NULL;
	if (ip.version == 4 && ip.ihl >= 5) {
		key->src[2] = key->dst[2] = bpf_htonl(0xffff);
		key->src[3] = ip.saddr;
		key->dst[3] = ip.daddr;
		key->protocol = ip.protocol;
		return ip.frag_off & bpf_htons(0x1fff) ? NULL : at + ip.ihl * 4;
	}
	if (ip.version != 6 || bpf_probe_read_kernel(&ip6, sizeof(ip6), at))
		return NULL;
	__builtin_memcpy(key->src, &ip6.saddr, 16);
	__builtin_memcpy(key->dst, &ip6.daddr, 16);
	key->protocol = ip6.nexthdr;
	return at + sizeof(ip6);
}

SEC("raw_tp/kfree_skb")
int drop(struct bpf_raw_tracepoint_args *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx->args[0];
	struct fact fresh = {.drops = 1}, *fact;
	struct fact_key key = {};
	struct net_device *dev;
	unsigned char *at;
	struct sock *sk;

	if (!is_drop(ctx->args[2]))
		return 0;
	at = parse(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header), &key);
	if (!at || (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP && key.protocol != IPPROTO_SCTP) ||
	    bpf_probe_read_kernel(&key.sport, 4, at))
		return 0;
	dev = BPF_CORE_READ(skb, dev);
	sk = BPF_CORE_READ(skb, sk);
	if (dev)
		key.netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	else if (sk)
		key.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	fact = bpf_map_lookup_elem(&facts, &key);
	if (fact)
		__sync_fetch_and_add(&fact->drops, 1);
	else
		bpf_map_update_elem(&facts, &key, &fresh, BPF_ANY);
	return 0;
}
