/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Counts packets and IP-layer octets per (tap, direction, 5-tuple) at a tc hook; never changes or drops one.
 *
 * The plain case (Ethernet, IPv4 without options or IPv6 without extension headers, TCP or UDP, no
 * fragment, no tunnel) is read straight from packet memory and costs one map lookup. Everything else goes
 * through `slow`, which copies headers with a helper and so also reads headers outside the linear part.
 *
 * Octets follow design section 4: a super-packet counts as the segments it will be cut into, each with its
 * own copy of every header, the tunnel's included. No BTF is needed in the kernel, nothing newer than 5.8. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tap.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define MORE_OR_OFFSET 0x3fff /* IPv4: more fragments, or an offset */
#define PORTS_VXLAN 4
#define PORTS_GENEVE 2

/* Set by the loader before the program is loaded. Unused places are 0, which no packet is sent to. */
const volatile __be16 vxlan_ports[PORTS_VXLAN] = {};
const volatile __be16 geneve_ports[PORTS_GENEVE] = {};

/* One packet in so many is counted, as so many; 0: every one. */
const volatile __u32 sample = 0;

const volatile __u32 layout[] = {
	sizeof(struct key_v4), offsetof(struct key_v4, sport), offsetof(struct key_v4, tap),
	sizeof(struct key_v6), offsetof(struct key_v6, sport), offsetof(struct key_v6, tap),
	sizeof(struct key_tunnel), offsetof(struct key_tunnel, vni), offsetof(struct key_tunnel, inner_sport),
	sizeof(struct count), offsetof(struct count, last), offsetof(struct count, flags),
	sizeof(struct state), offsetof(struct state, dirty), sizeof(struct loss), STAGES,
	sizeof(struct message), offsetof(struct message, key), offsetof(struct message, length),
};

struct state state = {};

#define COUNTS(name, key_type)                          \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_PERCPU_HASH); \
		__uint(max_entries, 131072);            \
		__type(key, key_type);                  \
		__type(value, struct count);            \
	} name SEC(".maps")

COUNTS(v4_even, struct key_v4);
COUNTS(v4_odd, struct key_v4);
COUNTS(v6_even, struct key_v6);
COUNTS(v6_odd, struct key_v6);
COUNTS(tunnel_even, struct key_tunnel);
COUNTS(tunnel_odd, struct key_tunnel);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * STAGES);
	__type(key, __u32);
	__type(value, struct loss);
} losses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct key_fragment);
	__type(value, struct key_tunnel);
} fragments SEC(".maps");

/* Only user space reads and writes this: which interface a tap id is, so that an heir knows. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(key_size, 4);
	__uint(value_size, 128);
} taps SEC(".maps");

/* How much one packet adds. `heard` is set where it may say a name (names.h). */
struct amount {
	__u64 packets, octets;
	__u32 flags, heard;
};

#include "names.h"

static __noinline void lose(__u32 side, __u32 stage, struct amount *amount)
{
	__u32 index = side * STAGES + stage;
	struct loss *loss = bpf_map_lookup_elem(&losses, &index);

	if (!loss)
		return;
	loss->packets += amount->packets & PACKETS_MASK;
	loss->octets += amount->octets;
}

/* Time at the last tick. jiffies is one load (the verifier inlines bpf_jiffies64) where the coarse clock's
 * helper costs 18 ns here; both step by the tick, in step with CLOCK_MONOTONIC. */
static __always_inline __u64 tick_time(void)
{
	return bpf_jiffies64() * state.tick + state.epoch;
}

/* The precise time, and with it where ticks stand. The smallest difference seen is the one taken just after a
 * tick, so `epoch` only falls, by less than a tick in all. A lost race between CPUs is mended by the next. */
static __always_inline __u64 precise_time(void)
{
	__u64 now = bpf_ktime_get_ns(), epoch = now - bpf_jiffies64() * state.tick;

	if ((__s64)(epoch - state.epoch) < 0)
		state.epoch = epoch;
	return now;
}

/* The precise clock orders openings and ends; between them the tick (4 ms at most) is good enough. */
static __always_inline void add(struct count *count, const struct amount *amount)
{
	__u64 now;

	if (likely(count->first && !(amount->flags & (TCP_SYN | TCP_FIN | TCP_RST))))
		now = tick_time();
	else
		now = precise_time();
	count->packets += amount->packets;
	count->octets += amount->octets;
	count->flags |= amount->flags;
	if (unlikely(!count->first)) /* another CPU made the entry; ours was zero */
		count->first = now;
	now = (now - count->first) >> 10;
	if (now > count->last && now <= 0xffffffff) /* a tick before `first` comes out huge */
		count->last = now;
}

/* Whether a packet is left out where only some are counted. What opens or ends a connection, and what an error says of
 * one, never is. */
static __noinline bool left_out(struct amount *amount)
{
	if (amount->flags & (TCP_SYN | TCP_FIN | TCP_RST | FLAG_UNREACHABLE))
		return false;
	if (bpf_get_prandom_u32() % sample)
		return true;
	amount->packets *= sample;
	amount->octets *= sample;
	return false;
}

/* No other program of ours can run on this CPU between our lookup and our update (bottom halves are off),
 * and an update writes only this CPU's share: so BPF_ANY can never overwrite a count. */

#define COUNT(key, even, odd, family, amount)                                                  \
	do {                                                                                   \
		struct count *count;                                                           \
		struct count fresh = {};                                                       \
		__u32 side = state.generation & 1;                                             \
		long failed;                                                                   \
		if (unlikely(sample) && left_out(amount))                                      \
			break;                                                                 \
		/* Two call sites, kept apart, so that the verifier inlines each lookup. */    \
		if (side) {                                                                    \
			count = bpf_map_lookup_elem(&odd, key);                                \
			asm volatile("" ::: "memory");                                         \
		} else {                                                                       \
			count = bpf_map_lookup_elem(&even, key);                               \
		}                                                                              \
		if (likely(count)) {                                                           \
			if (unlikely(count->packets < EARLY &&                                 \
				     (!(count->flags & TCP_PSH) || IS_DNS(key))))              \
				(amount)->heard = 1;                                           \
			add(count, amount);                                                    \
			break;                                                                 \
		}                                                                              \
		fresh.packets = (amount)->packets;                                             \
		fresh.octets = (amount)->octets;                                               \
		fresh.flags = (amount)->flags;                                                 \
		fresh.first = precise_time();                                                  \
		(amount)->heard = 1;                                                           \
		if (side)                                                                      \
			failed = bpf_map_update_elem(&odd, key, &fresh, BPF_ANY);              \
		else                                                                           \
			failed = bpf_map_update_elem(&even, key, &fresh, BPF_ANY);             \
		if (failed)                                                                    \
			lose(side, STAGE_MAP_FULL, amount);                                    \
		/* Constant places: without CAP_PERFMON the verifier refuses pointer           \
		 * arithmetic with a number that differs by the way that leads here. */        \
		else if (side)                                                                 \
			__sync_fetch_and_add(&state.dirty[FAMILIES + family], 1);              \
		else                                                                           \
			__sync_fetch_and_add(&state.dirty[family], 1);                         \
	} while (0)

static __always_inline __u32 tcp_flags(__u8 flags)
{
	if (unlikely(flags & TCP_SYN))
		return flags | (flags & TCP_ACK ? FLAG_SYN_ACK : FLAG_SYN_ONLY);
	return flags;
}

/* Octets 12 to 15 of a TCP header in one load: its length, flags and window (RFC 9293 section 3.1). */
static __always_inline __u32 tcp_word(const void *tcp)
{
	return bpf_ntohl(*(const __be32 *)(tcp + 12));
}

static __always_inline __u32 tcp_length(__u32 word)
{
	return (word >> 26) & 0x3c;
}

/* A segment that offers no room. Those that open or end a connection say nothing by it. */
static __always_inline bool is_zero_window(__u32 word)
{
	return unlikely(!(word & 0xffff)) && !(word >> 16 & (TCP_SYN | TCP_FIN | TCP_RST));
}

/* `ip` octets came in this (super-)packet; `headers` of them repeat in each segment. `total` is what the IP
 * header says: shorter than `ip` where a short Ethernet frame was padded. */
static __always_inline void measure(struct __sk_buff *skb, __u32 ip, __u32 headers, __u32 total,
				    struct amount *amount)
{
	__u32 segments;

	amount->packets = 1;
	amount->octets = ip;
	/* Without payload nothing is cut, and asking would touch one more cache line (the shared info). */
	if (ip == headers)
		return;
	segments = skb->gso_segs;
	if (likely(!skb->gso_size)) {
		if (total && total < ip)
			amount->octets = total;
		return;
	}
	if (!segments && ip > headers) /* made by a virtual machine: only the size is known */
		segments = (ip - headers + skb->gso_size - 1) / skb->gso_size;
	if (segments > 1) {
		amount->packets = segments;
		amount->octets += (__u64)(segments - 1) * headers;
	}
}

static __always_inline enum kind tunnel_of(__be16 port)
{
	for (int i = 0; i < PORTS_VXLAN; i++)
		if (port == vxlan_ports[i])
			return KIND_VXLAN;
	for (int i = 0; i < PORTS_GENEVE; i++)
		if (port == geneve_ports[i])
			return KIND_GENEVE;
	return KIND_PLAIN;
}

/* One IP header, its extension headers skipped. */
struct l3 {
	__be32 src[4], dst[4];
	__u32 end; /* offset of what follows */
	__u32 total;
	__u32 id;
	__u8 protocol, first_fragment, later_fragment, jumbo;
};

static __noinline int parse_v4(struct __sk_buff *skb, __u32 at, struct l3 *l3)
{
	struct iphdr ip;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	fragment = bpf_ntohs(ip.frag_off);
	l3->src[0] = l3->src[1] = l3->dst[0] = l3->dst[1] = 0;
	l3->src[2] = l3->dst[2] = bpf_htonl(0xffff);
	l3->src[3] = ip.saddr;
	l3->dst[3] = ip.daddr;
	l3->end = at + ip.ihl * 4;
	l3->total = bpf_ntohs(ip.tot_len);
	l3->id = ip.id;
	l3->protocol = ip.protocol;
	l3->later_fragment = !!(fragment & 0x1fff);
	l3->first_fragment = (fragment & 0x3fff) == 0x2000;
	l3->jumbo = 0;
	return 0;
}

static __noinline int parse_v6(struct __sk_buff *skb, __u32 at, struct l3 *l3)
{
	struct ipv6hdr ip;
	__u8 next[8];

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(l3->src, &ip.saddr, 16);
	__builtin_memcpy(l3->dst, &ip.daddr, 16);
	l3->total = ip.payload_len ? bpf_ntohs(ip.payload_len) + 40 : 0;
	l3->protocol = ip.nexthdr;
	l3->end = at + 40;
	l3->id = l3->later_fragment = l3->first_fragment = l3->jumbo = 0;
	for (int i = 0; i < 6; i++) {
		__u8 protocol = l3->protocol;

		if (protocol != 0 && protocol != 43 && protocol != 44 && protocol != 51 && protocol != 60 &&
		    protocol != 135)
			break;
		if (bpf_skb_load_bytes(skb, l3->end, next, sizeof(next)))
			break;
		l3->protocol = next[0];
		if (protocol == 44) { /* fragment: offset and more-flag, then a 32-bit id */
			l3->end += 8;
			__builtin_memcpy(&l3->id, next + 4, 4);
			l3->later_fragment = next[2] || (next[3] & 0xf8);
			l3->first_fragment = !l3->later_fragment && (next[3] & 1);
			if (l3->later_fragment)
				break;
		} else if (protocol == 51) { /* authentication: length in 4-octet units, less 2 */
			l3->end += (next[1] + 2) * 4;
		} else {
			/* Linux puts a jumbo option (RFC 2675) before super-packets over 64 KiB and takes it
			 * off again when cutting them. */
			l3->jumbo = protocol == 0 && next[2] == 0xc2 && !ip.payload_len;
			l3->end += (next[1] + 1) * 8;
		}
	}
	return 0;
}

static __always_inline int parse_l3(struct __sk_buff *skb, __u32 at, __be16 type, struct l3 *l3)
{
	if (type == bpf_htons(ETH_P_IP))
		return parse_v4(skb, at, l3);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_v6(skb, at, l3);
	return -1;
}

/* The EtherType behind up to two VLAN tags; moves `at` to the payload. */
static __noinline __be16 parse_l2(struct __sk_buff *skb, __u32 *at)
{
	__be16 type = 0;

	if (bpf_skb_load_bytes(skb, *at + 12, &type, 2))
		return 0;
	*at += ETH_HLEN;
	for (int i = 0; i < 2; i++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(skb, *at + 2, &type, 2))
			return 0;
		*at += 4;
	}
	return type;
}

/* Ports (or an ICMP type), TCP flags and the length of a transport header. */
struct l4 {
	__be16 sport, dport;
	__u32 flags, length;
	bool zero_window;
};

static __noinline void parse_l4(struct __sk_buff *skb, struct l3 *l3, struct l4 *l4)
{
	__u8 head[16];
	__u32 word;

	l4->sport = l4->dport = 0;
	l4->flags = l4->length = 0;
	l4->zero_window = false;
	if (l3->later_fragment)
		return;
	switch (l3->protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, l3->end, head, sizeof(head)))
			return;
		word = (__u32)head[12] << 24 | (__u32)head[13] << 16 | (__u32)head[14] << 8 | head[15];
		l4->length = tcp_length(word);
		l4->flags = tcp_flags(head[13]);
		l4->zero_window = is_zero_window(word);
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		if (bpf_skb_load_bytes(skb, l3->end, head, 4))
			return;
		l4->length = l3->protocol == IPPROTO_SCTP ? 12 : 8;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (bpf_skb_load_bytes(skb, l3->end, head, 2))
			return;
		l4->length = 8;
		__builtin_memcpy(&l4->dport, head, 2); /* type << 8 | code, in network order */
		return;
	default:
		return;
	}
	__builtin_memcpy(&l4->sport, head, 2);
	__builtin_memcpy(&l4->dport, head + 2, 2);
}

static __always_inline void fragment_key(struct l3 *l3, __u16 tap, struct key_fragment *key)
{
	__builtin_memcpy(key->src, l3->src, 16);
	__builtin_memcpy(key->dst, l3->dst, 16);
	key->id = l3->id;
	key->tap = tap;
	key->protocol = l3->protocol;
	key->pad = 0;
}

/* What a first fragment was, for those behind it. */
static __noinline void remember(struct l3 *l3, struct key_tunnel *key)
{
	struct key_fragment fragment;

	fragment_key(l3, key->tap, &fragment);
	bpf_map_update_elem(&fragments, &fragment, key, BPF_ANY);
}

static __noinline struct key_tunnel *recall(struct l3 *l3, __u16 tap)
{
	struct key_fragment fragment;

	fragment_key(l3, tap, &fragment);
	return bpf_map_lookup_elem(&fragments, &fragment);
}

/* Where the inner packet starts and what it is, by tunnel; 0 when there is none to read. */
static __noinline __be16 enter(struct __sk_buff *skb, struct l3 *l3, struct key_tunnel *key, __u32 *at)
{
	__u8 head[8] = {};
	__be16 type;

	*at = l3->end;
	if (l3->protocol == IPPROTO_IPIP) {
		key->kind = KIND_IPIP;
		return bpf_htons(ETH_P_IP);
	}
	if (l3->protocol == IPPROTO_IPV6) {
		key->kind = KIND_OTHER;
		return bpf_htons(ETH_P_IPV6);
	}
	if (l3->protocol == IPPROTO_GRE) { /* RFC 2784, RFC 2890: checksum, key and sequence are optional */
		if (bpf_skb_load_bytes(skb, *at, head, 4))
			return 0;
		key->kind = KIND_GRE;
		if (head[1] & 7) /* version 1 carries PPP */
			return 0;
		*at += 4 + (head[0] & 0x80 ? 4 : 0);
		if (head[0] & 0x20) {
			bpf_skb_load_bytes(skb, *at, &key->vni, 4);
			*at += 4;
		}
		*at += head[0] & 0x10 ? 4 : 0;
		__builtin_memcpy(&type, head + 2, 2);
	} else {
		if (bpf_skb_load_bytes(skb, *at + 8, head, 8))
			return 0;
		if (tunnel_of(key->dport) == KIND_VXLAN) { /* RFC 7348: the I bit says that a VNI is there */
			if (!(head[0] & 0x08))
				return 0;
			key->kind = KIND_VXLAN;
			*at += 16;
			type = bpf_htons(0x6558);
		} else { /* RFC 8926: options are counted in 4 octets */
			if (head[0] >> 6)
				return 0;
			key->kind = KIND_GENEVE;
			*at += 16 + (head[0] & 0x3f) * 4;
			__builtin_memcpy(&type, head + 2, 2);
		}
		key->sport = 0; /* the sender's port only spreads load */
		key->vni = bpf_htonl((__u32)head[4] << 16 | (__u32)head[5] << 8 | head[6]);
	}
	if (type == bpf_htons(0x6558))
		type = parse_l2(skb, at);
	return type;
}

static __always_inline bool is_tunnel(__u8 protocol, __be16 dport)
{
	return (protocol == IPPROTO_UDP && tunnel_of(dport)) || protocol == IPPROTO_IPIP ||
	       protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE;
}

/* Fills the inner half of `key`; the number of octets up to the end of the inner headers, or 0. */
static __noinline __u32 look_inside(struct __sk_buff *skb, struct l3 *l3, struct key_tunnel *key)
{
	struct key_tunnel *known;
	struct l4 l4;
	__u32 at = 0;
	__be16 type = enter(skb, l3, key, &at);

	if (parse_l3(skb, at, type, l3))
		return 0;
	parse_l4(skb, l3, &l4);
	__builtin_memcpy(key->inner_src, l3->src, 16);
	__builtin_memcpy(key->inner_dst, l3->dst, 16);
	key->inner_protocol = l3->protocol;
	key->inner_sport = l4.sport;
	key->inner_dport = l4.dport;
	if (l3->first_fragment)
		remember(l3, key);
	if (l3->later_fragment) {
		known = recall(l3, key->tap);
		if (known) {
			key->inner_sport = known->inner_sport;
			key->inner_dport = known->inner_dport;
		}
	}
	return l3->end + l4.length;
}

static __noinline void count_plain(struct key_tunnel *key, struct amount *amount)
{
	if (key->src[2] == bpf_htonl(0xffff) && !key->src[0] && !key->src[1]) {
		struct key_v4 v4 = {
			.src = key->src[3], .dst = key->dst[3], .sport = key->sport, .dport = key->dport,
			.tap = key->tap, .protocol = key->protocol,
		};
		COUNT(&v4, v4_even, v4_odd, FAMILY_V4, amount);
	} else {
		struct key_v6 v6 = {
			.sport = key->sport, .dport = key->dport, .tap = key->tap, .protocol = key->protocol,
		};
		__builtin_memcpy(v6.src, key->src, 16);
		__builtin_memcpy(v6.dst, key->dst, 16);
		COUNT(&v6, v6_even, v6_odd, FAMILY_V6, amount);
	}
}

static __noinline void count_tunnel(struct key_tunnel *key, struct amount *amount)
{
	COUNT(key, tunnel_even, tunnel_odd, FAMILY_TUNNEL, amount);
}

/* Ports, kind and inner tuple of the first fragment, into the key of a later one. */
static __always_inline bool inherit(struct l3 *l3, struct key_tunnel *key)
{
	struct key_tunnel *first = recall(l3, key->tap);

	if (!first)
		return false;
	*key = *first;
	return true;
}

/* Destination unreachable, but for "fragmentation needed", which asks for smaller packets (RFC 792, RFC 4443). */
static __always_inline bool is_unreachable(__u8 protocol, __be16 message)
{
	__u16 type = bpf_ntohs(message);

	if (protocol == IPPROTO_ICMP)
		return type >> 8 == 3 && type != 0x0304;
	return protocol == IPPROTO_ICMPV6 && type >> 8 == 1;
}

/* The addresses and protocol of a quoted packet; where its transport header begins, or 0. One with extension headers
 * is not followed. */
static __noinline __u32 parse_quoted(struct __sk_buff *skb, __u32 at, struct key_tunnel *key)
{
	struct iphdr ip;
	struct ipv6hdr ip6;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	if (ip.version == 4) {
		if (ip.frag_off & bpf_htons(0x1fff))
			return 0;
		key->src[2] = key->dst[2] = bpf_htonl(0xffff);
		key->src[3] = ip.saddr;
		key->dst[3] = ip.daddr;
		key->protocol = ip.protocol;
		return at + ip.ihl * 4;
	}
	if (bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6)))
		return 0;
	__builtin_memcpy(key->src, &ip6.saddr, 16);
	__builtin_memcpy(key->dst, &ip6.daddr, 16);
	key->protocol = ip6.nexthdr;
	return at + sizeof(ip6);
}

/* Marks the entry of the packet that an error quotes. It went the other way through this tap. Not static, and told by a
 * number only, so that the verifier looks at it once. */
__noinline int mark_quoted(struct __sk_buff *skb, __u32 at)
{
	struct key_tunnel key = {};
	struct amount amount = {};
	__be16 ports[2];

	/* Of what is quoted only eight octets of the transport header are sure to be there. */
	at = parse_quoted(skb, at, &key);
	if (!at || bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	switch (key.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		key.sport = ports[0];
		key.dport = ports[1];
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		key.dport = ports[0];
	}
	key.tap = skb->tc_classid ^ CLASS_INGRESS;
	amount.flags = FLAG_UNREACHABLE;
	count_plain(&key, &amount);
	return 0;
}

/* Everything that is not the plain case. Where an error quotes a packet, or 0. Not static, so that the verifier looks at
 * it once and not for each way that leads here. */
__noinline __u32 read_slowly(struct __sk_buff *skb, __u32 tap)
{
	struct key_tunnel key = {};
	struct amount amount = {};
	struct l3 l3;
	struct l4 l4;
	__u32 at = 0, headers, inner, total, jumbo;
	bool first;
	__be16 type = tap & CLASS_BARE ? (__be16)skb->protocol : parse_l2(skb, &at);

	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return 0;
	if (parse_l3(skb, at, type, &l3)) {
		amount.packets = 1;
		amount.octets = skb->len - at;
		lose(state.generation & 1, STAGE_UNREADABLE, &amount);
		return 0;
	}
	parse_l4(skb, &l3, &l4);
	__builtin_memcpy(key.src, l3.src, 16);
	__builtin_memcpy(key.dst, l3.dst, 16);
	key.protocol = l3.protocol;
	key.tap = tap;
	key.sport = l4.sport;
	key.dport = l4.dport;
	headers = l3.end + l4.length - at;
	total = l3.total;
	jumbo = l3.jumbo ? 8 : 0;
	first = l3.first_fragment;
	if (l3.later_fragment) {
		measure(skb, skb->len - at, headers, total, &amount);
		if (!inherit(&l3, &key))
			lose(state.generation & 1, STAGE_FRAGMENT, &amount);
	} else {
		struct key_fragment fragment;

		fragment_key(&l3, tap, &fragment);
		if (is_tunnel(key.protocol, key.dport)) {
			inner = look_inside(skb, &l3, &key);
			if (inner)
				headers = inner - at;
		}
		if (first)
			bpf_map_update_elem(&fragments, &fragment, &key, BPF_ANY);
		measure(skb, skb->len - at - jumbo, headers - jumbo, total, &amount);
	}
	amount.flags = l4.flags;
	if (l4.zero_window)
		amount.packets += amount.packets << ZERO_WINDOW_SHIFT;
	if (key.kind) {
		count_tunnel(&key, &amount);
		return 0;
	}
	count_plain(&key, &amount);
	if (l4.length && (amount.heard || IS_DNS(&key)))
		hear(skb, at, l3.end, l3.end + l4.length, key.protocol);
	return is_unreachable(key.protocol, l4.dport) && !first ? l3.end + 8 : 0;
}

static __always_inline int slow(struct __sk_buff *skb, __u32 tap)
{
	__u32 quoted = read_slowly(skb, tap);

	if (quoted)
		mark_quoted(skb, quoted);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tap(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 tap = skb->tc_classid;
	struct ethhdr *eth = data;
	struct amount amount;

	if (tap & CLASS_BARE || data + sizeof(*eth) + sizeof(struct iphdr) + sizeof(struct tcphdr) > end)
		return slow(skb, tap);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + sizeof(*eth);
		struct tcphdr *tcp = (void *)(ip + 1);
		struct key_v4 key = {
			.src = ip->saddr, .dst = ip->daddr, .sport = tcp->source, .dport = tcp->dest,
			.tap = tap, .protocol = ip->protocol,
		};
		__u32 headers;
		bool zero_window = false;

		if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(MORE_OR_OFFSET))
			return slow(skb, tap);
		if (key.protocol == IPPROTO_TCP) {
			__u32 word = tcp_word(tcp);

			headers = sizeof(*ip) + tcp_length(word);
			amount.flags = tcp_flags(word >> 16);
			amount.heard = 0;
			zero_window = is_zero_window(word);
		} else if (key.protocol == IPPROTO_UDP && !tunnel_of(key.dport)) {
			headers = sizeof(*ip) + sizeof(struct udphdr);
			amount.flags = 0;
			amount.heard = IS_DNS(&key);
		} else {
			return slow(skb, tap);
		}
		measure(skb, skb->len - ETH_HLEN, headers, bpf_ntohs(ip->tot_len), &amount);
		if (unlikely(zero_window))
			amount.packets += amount.packets << ZERO_WINDOW_SHIFT;
		COUNT(&key, v4_even, v4_odd, FAMILY_V4, &amount);
		if (unlikely(amount.heard) && (key.protocol == IPPROTO_TCP || IS_DNS(&key)))
			hear(skb, ETH_HLEN, ETH_HLEN + sizeof(*ip), ETH_HLEN + headers, key.protocol);
		return TC_ACT_UNSPEC;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6) &&
	    data + sizeof(*eth) + sizeof(struct ipv6hdr) + sizeof(struct tcphdr) <= end) {
		struct ipv6hdr *ip = data + sizeof(*eth);
		struct tcphdr *tcp = (void *)(ip + 1);
		struct key_v6 key = {
			.sport = tcp->source, .dport = tcp->dest, .tap = tap, .protocol = ip->nexthdr,
		};
		__u32 headers, total = bpf_ntohs(ip->payload_len);
		bool zero_window = false;

		if (key.protocol == IPPROTO_TCP) {
			__u32 word = tcp_word(tcp);

			headers = sizeof(*ip) + tcp_length(word);
			amount.flags = tcp_flags(word >> 16);
			amount.heard = 0;
			zero_window = is_zero_window(word);
		} else if (key.protocol == IPPROTO_UDP && !tunnel_of(key.dport)) {
			headers = sizeof(*ip) + sizeof(struct udphdr);
			amount.flags = 0;
			amount.heard = IS_DNS(&key);
		} else {
			return slow(skb, tap);
		}
		__builtin_memcpy(key.src, &ip->saddr, 16);
		__builtin_memcpy(key.dst, &ip->daddr, 16);
		measure(skb, skb->len - ETH_HLEN, headers, total ? total + sizeof(*ip) : 0, &amount);
		if (unlikely(zero_window))
			amount.packets += amount.packets << ZERO_WINDOW_SHIFT;
		COUNT(&key, v6_even, v6_odd, FAMILY_V6, &amount);
		if (unlikely(amount.heard) && (key.protocol == IPPROTO_TCP || IS_DNS(&key)))
			hear(skb, ETH_HLEN, ETH_HLEN + sizeof(*ip), ETH_HLEN + headers, key.protocol);
		return TC_ACT_UNSPEC;
	}
	return slow(skb, tap);
}
