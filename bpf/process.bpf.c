/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Names the processes at the ends of conversations.
 *
 * TCP, by the raw tracepoint inet_sock_set_state: connect(2) runs in the opener's context when the state becomes SYN_SENT,
 * but the socket has no port yet then; when it leaves that state it has, but somebody else is running. So the first step
 * remembers who, by socket, and the second writes (tuple, namespace) -> who. listen(2) runs in its caller's context, with
 * the port known.
 *
 * UDP, by hooks at the root of the cgroup v2 tree that cost sends nothing: socket(2) and connect(2) remember who, by socket,
 * which has no port yet; which it got is told by its last close(2), by another connect(2), or else by an iterator over the
 * sockets remembered, which is run from outside. No hook at sendmsg: any would take the socket's lock at each.
 * Where that cannot be, by the tracepoint sock_send_length (6.3), which costs every send of every socket.
 *
 * Needs the kernel's BTF for field offsets; where that is missing, nobody is named and the agent says so. */
#include <linux/bpf.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "sock.h"

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

enum kind { OPENED = 0, SPOKE = 1, LISTENS = 2, CLOSED = 3 };

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct kernfs_node {
	__u64 id;
	const char *name;
} __attribute__((preserve_access_index));

struct cgroup {
	struct kernfs_node *kn;
} __attribute__((preserve_access_index));

struct css_set {
	struct cgroup *dfl_cgrp;
} __attribute__((preserve_access_index));

struct task_struct {
	struct task_struct *real_parent;
	struct css_set *cgroups;
	int tgid;
	char comm[16];
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_sk_storage_map {
	struct sock *sk;
	void *value;
} __attribute__((preserve_access_index));

/* src is the end whose process is named; dst is zero where the socket has no peer. */
struct conversation {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u32 netns;
	__u8 protocol, kind, pad[2];
};

struct opener {
	__u32 pid, parent;
	__u64 cgroup; /* inode in the v2 tree, a key of `cgroups` */
	__u64 socket; /* only to tell sockets apart */
	__u64 at;     /* CLOCK_MONOTONIC, ns */
	char comm[16], parent_comm[16];
};

struct folder {
	char name[96];
};

struct sender {
	__u64 tick; /* when it was told last, 0 for never */
	__u32 pid;
	__u16 port;
	__be16 peer_port;
	struct opener who;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct opener);
} opening SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sender);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct conversation);
	__type(value, struct opener);
} conversations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, __u64);
	__type(value, struct folder);
} cgroups SEC(".maps");

static __noinline int describe(struct sock *sk, struct conversation *key)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	key->protocol = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol);
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

/* The name of the current process' cgroup is kept beside it: a process that ends at once leaves nothing in /proc. */
static __always_inline __u64 folder_of(struct task_struct *task)
{
	struct kernfs_node *node;
	struct folder folder = {};
	const char *name;
	__u64 id;

	if (!bpf_core_field_exists(task->cgroups))
		return 0;
	node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	id = BPF_CORE_READ(node, id);
	if (bpf_map_lookup_elem(&cgroups, &id))
		return id;
	name = BPF_CORE_READ(node, name);
	bpf_probe_read_kernel_str(folder.name, sizeof(folder.name), name);
	bpf_map_update_elem(&cgroups, &id, &folder, BPF_ANY);
	return id;
}

static __noinline int current_process(struct opener *who, __u64 id)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);

	who->pid = bpf_get_current_pid_tgid() >> 32;
	who->socket = id;
	who->at = bpf_ktime_get_ns();
	bpf_get_current_comm(who->comm, sizeof(who->comm));
	who->parent = BPF_CORE_READ(parent, tgid);
	BPF_CORE_READ_INTO(&who->parent_comm, parent, comm);
	who->cgroup = folder_of(task);
	return 0;
}

static __always_inline void tell(struct sock *sk, struct opener *who, enum kind kind)
{
	struct conversation key = {.kind = kind};

	if (!describe(sk, &key))
		bpf_map_update_elem(&conversations, &key, who, BPF_ANY);
}

SEC("raw_tp/inet_sock_set_state")
int process(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	__u64 id = (__u64)sk;
	int before = ctx->args[1], after = ctx->args[2];
	struct opener who = {}, *known;

	if (after == TCP_SYN_SENT) {
		if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol) != IPPROTO_TCP)
			return 0;
		current_process(&who, id);
		bpf_map_update_elem(&opening, &id, &who, BPF_ANY);
	} else if (before == TCP_SYN_SENT) {
		known = bpf_map_lookup_elem(&opening, &id);
		if (!known)
			return 0;
		tell(sk, known, OPENED);
		bpf_map_delete_elem(&opening, &id);
	} else if (after == TCP_LISTEN || (before == TCP_LISTEN && after == TCP_CLOSE)) {
		/* A socket that is accepted leaves LISTEN too: it is a copy of the listener's, made in no process' context. */
		if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol) != IPPROTO_TCP)
			return 0;
		current_process(&who, id);
		tell(sk, &who, after == TCP_LISTEN ? LISTENS : CLOSED);
	}
	return 0;
}

/* Tell who has a socket that has a port, once in a while. */
static __always_inline void tell_holder(struct sock *sk, struct sender *mine)
{
	mine->tick = bpf_jiffies64();
	mine->who.at = bpf_ktime_get_ns();
	tell(sk, &mine->who, SPOKE);
}

static __always_inline void take(struct sock *sk, struct sender *mine)
{
	current_process(&mine->who, (__u64)sk);
	mine->pid = mine->who.pid;
	mine->tick = 0;
}

SEC("cgroup/sock_create")
int rf_udp_create(struct bpf_sock *ctx)
{
	struct sender *mine;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	mine = bpf_sk_storage_get(&senders, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (mine)
		take(bpf_rdonly_cast(ctx, bpf_core_type_id_kernel(struct sock)), mine);
	return 1;
}

/* The socket still has the peer it had before, if any. */
static __always_inline int connects(struct bpf_sock_addr *ctx)
{
	struct sender *mine;
	struct sock *sk;

	if (!ctx->sk || ctx->protocol != IPPROTO_UDP)
		return 1;
	mine = bpf_sk_storage_get(&senders, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine)
		return 1;
	sk = bpf_rdonly_cast(ctx->sk, bpf_core_type_id_kernel(struct sock));
	if (!mine->tick && mine->pid && sk->__sk_common.skc_num)
		tell_holder(sk, mine);
	take(sk, mine);
	return 1;
}

SEC("cgroup/connect4")
int rf_udp_connect4(struct bpf_sock_addr *ctx)
{
	return connects(ctx);
}

SEC("cgroup/connect6")
int rf_udp_connect6(struct bpf_sock_addr *ctx)
{
	return connects(ctx);
}

SEC("cgroup/sock_release")
int rf_udp_release(struct bpf_sock *ctx)
{
	struct sock *sk = bpf_rdonly_cast(ctx, bpf_core_type_id_kernel(struct sock));
	struct sender *mine;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	mine = bpf_sk_storage_get(&senders, ctx, 0, 0);
	if (mine && mine->pid && !mine->tick && sk->__sk_common.skc_num)
		tell_holder(sk, mine);
	return 1;
}

/* Tells of the sockets with a port that were not told of lately, in whatever namespace. */
SEC("iter/bpf_sk_storage_map")
int rf_udp_living(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sender *mine = ctx->value;
	struct sock *sk = ctx->sk;

	if (!sk || !mine || !mine->pid)
		return 0;
	if (!sk->__sk_common.skc_num || (mine->tick && bpf_jiffies64() - mine->tick < AGAIN))
		return 0;
	tell_holder(sk, mine);
	return 0;
}

/* Each send of every socket comes by here, so it reads fields as they stand (tp_btf) and most sends end at the second
 * line; those of UDP at a comparison with what the socket itself remembers. */
SEC("tp_btf/sock_send_length")
int sends(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	__u16 family = sk->__sk_common.skc_family;
	struct opener who = {};
	struct sender *last;
	__u64 tick;
	__u32 pid;

	if ((family != AF_INET && family != AF_INET6) || sk->sk_protocol != IPPROTO_UDP || (int)ctx[1] < 0)
		return 0;
	last = bpf_sk_storage_get(&senders, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!last)
		return 0;
	pid = bpf_get_current_pid_tgid() >> 32;
	tick = bpf_jiffies64();
	if (last->pid == pid && last->port == sk->__sk_common.skc_num &&
	    last->peer_port == sk->__sk_common.skc_dport && tick - last->tick < AGAIN)
		return 0;
	last->pid = pid;
	last->port = sk->__sk_common.skc_num;
	last->peer_port = sk->__sk_common.skc_dport;
	last->tick = tick;
	current_process(&who, (__u64)sk);
	tell(sk, &who, SPOKE);
	return 0;
}
