/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Does nothing: what running any program at a tc hook costs, to be taken off ours. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int empty(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}
