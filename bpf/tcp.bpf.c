/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What sockets know of their own sending: the smoothed round trip, and segments sent again. Detailed mode only.
 *
 * tcp_retransmit_skb: a socket sends again; the same segments are added to tcp_info's tcpi_total_retrans.
 * tcp_probe: a segment came for an established socket. Each socket is asked once in 64 ms, else by one look-up only.
 * inet_sock_set_state: the last estimate of a socket that closes.
 *
 * Needs the kernel's BTF for field offsets; where that is missing, the facts are unknown and the agent says so. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "facts.h"

#define SELDOM 64000000ULL /* ns */

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct tcp_sock {
	__u32 srtt_us; /* in eighths of a microsecond */
} __attribute__((preserve_access_index));

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
} __attribute__((preserve_access_index));

/* When a socket was last asked, and its port: memory of a socket that went is used again. */
struct asked {
	__u64 at, port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct asked);
} lately SEC(".maps");

static __noinline int note(struct sock *sk, __u32 segments)
{
	struct fact_key key = {.protocol = IPPROTO_TCP};
	struct fact fresh = {}, *fact;
	__u32 srtt = BPF_CORE_READ((struct tcp_sock *)sk, srtt_us) >> 3;

	if (describe(sk, &key))
		return 0;
	fact = bpf_map_lookup_elem(&facts, &key);
	if (!fact) {
		fresh.srtt_us = srtt;
		fresh.retransmits = segments;
		bpf_map_update_elem(&facts, &key, &fresh, BPF_ANY);
		return 0;
	}
	if (srtt)
		fact->srtt_us = srtt;
	if (segments)
		__sync_fetch_and_add(&fact->retransmits, segments);
	return 0;
}

SEC("raw_tp/tcp_retransmit_skb")
int again(struct bpf_raw_tracepoint_args *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx->args[1];
	struct tcp_skb_cb *cb = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	__u32 segments = BPF_CORE_READ(cb, tcp_gso_segs);

	return note((struct sock *)ctx->args[0], segments ? segments : 1);
}

SEC("raw_tp/tcp_probe")
int estimate(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	struct asked now = {.at = bpf_ktime_get_ns()}, *last;
	__u64 id = (__u64)sk;

	last = bpf_map_lookup_elem(&lately, &id);
	now.port = BPF_CORE_READ((struct inet_sock *)sk, inet_sport);
	if (last && last->port == now.port && now.at - last->at < SELDOM)
		return 0;
	bpf_map_update_elem(&lately, &id, &now, BPF_ANY);
	return note(sk, 0);
}

SEC("raw_tp/inet_sock_set_state")
int closing(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];

	if ((int)ctx->args[2] != TCP_CLOSE || BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol) != IPPROTO_TCP ||
	    !BPF_CORE_READ(sk, __sk_common.skc_dport))
		return 0;
	return note(sk, 0);
}
