/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Lets user space hear DNS messages and ClientHellos: their first octets go to a ring, everything else is not copied.
 *
 * Part of the tap program and not a program of its own: a second one at each tap would cost every packet a call. Here
 * only packets are looked at that are the first few of their tuple in a window and come before its first PSH (a
 * ClientHello is the first thing said) or are DNS, and UDP from or to port 53. An established TCP packet pays one
 * comparison. Included by tap.bpf.c; read by src/ringfence/capture/names.py. */
#ifndef RINGFENCE_NAMES_H
#define RINGFENCE_NAMES_H

#define EARLY 6 /* packets of a tuple in a window that are looked at: SYN, ACK, a hello in two, and two to spare */
#define TCP_PSH 0x08
#define PORT_DNS bpf_htons(53)

#define TELL_SHORT 512
#define TELL_LONG 2048
#define TOLD_LATELY 1000000000ULL /* ns in which another tap's copy of a hello is the same one */

/* What to tell of a tap, by its id: places where consumers' own questions pass. */
#define LISTEN_POD 1 /* questions come in from the interface */
#define LISTEN_NODE 2 /* the node's own questions leave through it */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} heard SEC(".maps");

/* Messages for which the ring had no room, counted in [0]. The reader notes in [1] what it was when it last swapped sides,
 * and in [2] when it last committed: the difference belongs to the generation between. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} unheard SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << (16 - CLASS_SHIFT));
	__type(key, __u32);
	__type(value, __u32);
} listening SEC(".maps");

/* Addresses of the node itself: what others ask only passes its taps. Only user space writes this. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, 16);
	__type(value, __u32);
} ours SEC(".maps");

/* Hellos told lately: one connection passes several taps, and its hello may go on in the next segment. */
struct greeting {
	__u64 time;
	__u32 next; /* sequence number of what follows */
	__u16 tap, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct key_v6);
	__type(value, struct greeting);
} greetings SEC(".maps");

static __noinline void miss(void)
{
	__u32 index = 0;
	__u64 *missed = bpf_map_lookup_elem(&unheard, &index);

	if (missed)
		*missed += 1;
}

/* Whether a key is of DNS. */
#define IS_DNS(key) ((key)->sport == PORT_DNS || (key)->dport == PORT_DNS)

/* The rest of telling, once there is room for `most` octets. */
static __always_inline void fill(struct __sk_buff *skb, struct message *message, struct key_v6 *key, __u32 at,
				 __u32 length, __u32 sequence, __u32 most)
{
	__u32 size = length;

	message->time = bpf_ktime_get_ns();
	message->key = *key;
	message->length = length;
	message->sequence = sequence;
	if (size > most)
		size = most;
	if (!size || bpf_skb_load_bytes(skb, at, message->data, size))
		message->length = 0;
	/* The reader comes by several times a second: waking it for each would cost more than all the rest. */
	bpf_ringbuf_submit(message, BPF_RB_NO_WAKEUP);
}

static __always_inline void tell(struct __sk_buff *skb, struct key_v6 *key, __u32 at, __u32 sequence)
{
	__u32 length = skb->len - at;
	struct message *message;

	if (length <= TELL_SHORT) {
		message = bpf_ringbuf_reserve(&heard, sizeof(*message) + TELL_SHORT, 0);
		if (message)
			fill(skb, message, key, at, length, sequence, TELL_SHORT);
	} else {
		message = bpf_ringbuf_reserve(&heard, sizeof(*message) + TELL_LONG, 0);
		if (message)
			fill(skb, message, key, at, length, sequence, TELL_LONG);
	}
	if (!message)
		miss();
}

/* Whether a segment begins a ClientHello that no other tap told, or goes on with one that this tap told. */
static __always_inline int greets(struct __sk_buff *skb, struct key_v6 *key, __u32 at, __u32 sequence)
{
	__u64 now = bpf_ktime_get_ns();
	struct greeting *known, fresh = {.time = now, .next = sequence + skb->len - at, .tap = key->tap};
	__u8 head[6];

	key->tap = 0; /* the same at each tap */
	known = bpf_map_lookup_elem(&greetings, key);
	key->tap = fresh.tap;
	if (!bpf_skb_load_bytes(skb, at, head, sizeof(head)) && head[0] == 22 && head[1] == 3 && head[5] == 1) {
		if (known && now - known->time < TOLD_LATELY)
			return 0;
		key->tap = 0;
		bpf_map_update_elem(&greetings, key, &fresh, BPF_ANY);
		key->tap = fresh.tap;
		return 1;
	}
	if (!known || known->tap != key->tap || known->next != sequence)
		return 0;
	known->next = fresh.next;
	return 1;
}

/* Who speaks to whom, read again from the packet. */
static __always_inline int speaker(struct __sk_buff *skb, __u32 l3, __u32 l4, struct key_v6 *key)
{
	__u8 first;

	if (bpf_skb_load_bytes(skb, l3, &first, 1) || bpf_skb_load_bytes(skb, l4, &key->sport, 4))
		return -1;
	key->tap = skb->tc_classid;
	if (first >> 4 == 4) {
		key->src[2] = key->dst[2] = bpf_htonl(0xffff);
		return bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, saddr), &key->src[3], 4) ||
		       bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, daddr), &key->dst[3], 4);
	}
	return bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, saddr), key->src, 32);
}

/* Looks at one packet of TCP or UDP that is no tunnel's: where its headers and its payload begin. Not static, and told
 * by numbers only, so that the verifier looks at it once and not for each way that leads here. */
__noinline int hear(struct __sk_buff *skb, __u32 l3, __u32 l4, __u32 at, __u32 protocol)
{
	struct key_v6 key = {.protocol = protocol};
	__u32 sequence = 0, tap, *listen;
	bool asks, dns, coming;

	if (skb->len <= at || speaker(skb, l3, l4, &key))
		return 0;
	asks = key.dport == PORT_DNS;
	dns = asks || key.sport == PORT_DNS;
	if (!dns && protocol != IPPROTO_TCP)
		return 0;
	tap = (key.tap >> CLASS_SHIFT) - 1;
	coming = key.tap & CLASS_INGRESS;
	listen = bpf_map_lookup_elem(&listening, &tap);
	if (!listen || !*listen)
		return 0;
	if (dns && !(asks == coming && *listen & LISTEN_POD) &&
	    !(asks != coming && *listen & LISTEN_NODE && bpf_map_lookup_elem(&ours, asks ? key.src : key.dst)))
		return 0;
	if (protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, l4 + 4, &sequence, 4))
			return 0;
		sequence = bpf_ntohl(sequence);
		if (!dns && !greets(skb, &key, at, sequence))
			return 0;
	}
	tell(skb, &key, at, sequence);
	return 0;
}

#endif
