/* SPDX-License-Identifier: Apache-2.0 */
/* Sends `rounds` datagrams to each of `ports` ports of one address, from one socket, pinned to one CPU. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	char payload[32] = "flood";
	struct sockaddr_in to = { .sin_family = AF_INET }, from = { .sin_family = AF_INET };
	long cpu, first, ports, rounds, sent = 0;
	cpu_set_t set;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 7)
		return 2;
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	from.sin_port = htons(atoi(argv[2]));
	cpu = atol(argv[3]), first = atol(argv[4]), ports = atol(argv[5]), rounds = atol(argv[6]);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	if (bind(fd, (struct sockaddr *)&from, sizeof(from)))
		return 1;
	for (long round = 0; round < rounds; round++)
		for (long port = first; port < first + ports; port++) {
			to.sin_port = htons(port);
			sent += sendto(fd, payload, sizeof(payload), 0, (struct sockaddr *)&to, sizeof(to)) > 0;
		}
	printf("%ld\n", sent);
	return 0;
}
