/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the tap program and its reader share. Python's copy is src/ringfence/capture/layout.py; the table
 * `layout` in tap.bpf.c carries sizes and offsets, and the loader refuses an object whose table differs. */
#ifndef RINGFENCE_TAP_H
#define RINGFENCE_TAP_H

#include <linux/types.h>

/* The low 16 bits of the filter's classid, which the kernel hands us in tc_classid (it keeps only 16). */
#define CLASS_INGRESS 1 /* seen coming from the interface */
#define CLASS_BARE 2 /* the device has no Ethernet header (ipip, gre, wireguard) */
#define CLASS_SHIFT 2 /* above: tap id + 1 */

#define FLAG_SYN_ONLY 0x100
#define FLAG_SYN_ACK 0x200
#define FLAG_UNREACHABLE 0x400 /* an ICMP error quoted a packet of this entry */

/* `count.packets` holds two numbers, so that neither costs a place of its own: packets below, and above the TCP
 * segments that offered no room. */
#define ZERO_WINDOW_SHIFT 48
#define PACKETS_MASK ((1ULL << ZERO_WINDOW_SHIFT) - 1)

enum family { FAMILY_V4, FAMILY_V6, FAMILY_TUNNEL, FAMILIES };

/* As columns.Kind. */
enum kind { KIND_PLAIN, KIND_VXLAN, KIND_GENEVE, KIND_IPIP, KIND_GRE, KIND_OTHER };

enum stage { STAGE_MAP_FULL, STAGE_FRAGMENT, STAGE_UNREADABLE, STAGES };

struct key_v4 {
	__be32 src, dst;
	__be16 sport, dport;
	__u16 tap; /* the classid: id + 1, bare, ingress */
	__u8 protocol, pad;
};

struct key_v6 {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u16 tap;
	__u8 protocol, pad;
};

/* A tunnelled packet: the outer tuple (IPv4 as ::ffff:a.b.c.d), the tunnel, and the whole tuple inside. */
struct key_tunnel {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u16 tap;
	__u8 protocol, kind;
	__be32 vni;
	__be32 inner_src[4], inner_dst[4];
	__be16 inner_sport, inner_dport;
	__u8 inner_protocol, pad[3];
};

/* One CPU's share of one tuple, in 32 octets so that it never straddles two cache lines. `first` is
 * CLOCK_MONOTONIC nanoseconds; `last` counts from there in units of 1024 ns (73 minutes at most). */
struct count {
	__u64 packets, octets, first;
	__u32 last, flags;
};

struct loss {
	__u64 packets, octets;
};

/* Shared with the reader. Maps of side `generation & 1` are being counted into; the other side is empty, or
 * holds what was drained and is not yet committed. CLOCK_MONOTONIC at the last tick is jiffies * tick + epoch.
 * `dirty` is how many entries a map was given. The kernel writes it and `epoch`, the reader everything else. One cache
 * line: every packet reads it. */
struct state {
	__u64 generation, tick, epoch, committed, build;
	__u32 dirty[2 * FAMILIES];
} __attribute__((aligned(64)));

/* Fragments: only the first carries ports (RFC 791; RFC 8200 section 4.5). */
struct key_fragment {
	__be32 src[4], dst[4];
	__u32 id;
	__u16 tap;
	__u8 protocol, pad;
};

/* What names.h tells of one packet: who says what to whom. */
struct message {
	__u64 time; /* CLOCK_MONOTONIC ns */
	struct key_v6 key; /* as on the wire: src and dst; IPv4 mapped */
	__u32 length; /* of the payload, however much of it follows; 0: it could not be read */
	__u32 sequence; /* TCP's number of the first octet */
	__u8 data[];
};

#endif
