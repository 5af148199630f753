/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Of the kernel's own structs only the fields that our programs read; their places in the running kernel are filled in
 * when a program is loaded (CO-RE). */
#ifndef RINGFENCE_SOCK_H
#define RINGFENCE_SOCK_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/types.h>

#define AF_INET 2
#define AF_INET6 10
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10
/* Ticks after which a socket that goes on sending is told again: 7.5 s (1000 Hz) to 75 s (100 Hz). */
#define AGAIN 7500

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
	__u8 sk_userlocks : 4;
} __attribute__((preserve_access_index));

#endif
