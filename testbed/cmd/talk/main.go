// Command talk serves and calls, so that pods of a test have something to say to each other.
//
//	talk serve --tcp 8080 --udp 8080 --http 8081
//	talk call tcp 10.244.1.5:8080 [--local-port N] [--times N]
//
// A TCP or UDP server answers each message with its host name and the message. Exit code 0 means that every call was
// answered.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

const patience = 3 * time.Second

func main() {
	if len(os.Args) < 2 {
		fail("usage: talk serve|call ...")
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2:])
	case "call":
		call(os.Args[2:])
	default:
		fail("usage: talk serve|call ...")
	}
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, "error:", text)
	os.Exit(1)
}

func serve(args []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	tcp := flags.Int("tcp", 0, "port for TCP")
	udp := flags.Int("udp", 0, "port for UDP")
	web := flags.Int("http", 0, "port for HTTP")
	_ = flags.Parse(args)
	host, _ := os.Hostname()
	if *tcp != 0 {
		go serveTCP(*tcp, host)
	}
	if *udp != 0 {
		go serveUDP(*udp, host)
	}
	if *web != 0 {
		go func() {
			fail(http.ListenAndServe(fmt.Sprintf(":%d", *web), http.HandlerFunc(
				func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })).Error())
		}()
	}
	select {}
}

func serveTCP(port int, host string) {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		fail(err.Error())
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				fmt.Fprintf(conn, "%s %s\n", host, lines.Text())
			}
		}()
	}
}

func serveUDP(port int, host string) {
	conn, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		fail(err.Error())
	}
	buffer := make([]byte, 65536)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err == nil {
			_, _ = conn.WriteTo([]byte(fmt.Sprintf("%s %s", host, buffer[:n])), from)
		}
	}
}

func call(args []string) {
	if len(args) < 2 {
		fail("usage: talk call tcp|udp|http ADDRESS:PORT")
	}
	flags := flag.NewFlagSet("call", flag.ExitOnError)
	local := flags.Int("local-port", 0, "own port")
	times := flags.Int("times", 1, "how many calls")
	_ = flags.Parse(args[2:])
	for range *times {
		if err := callOnce(args[0], args[1], *local); err != nil {
			fail(err.Error())
		}
	}
}

func callOnce(protocol, address string, local int) error {
	if protocol == "http" {
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(os.Stdout, answer.Body)
		return err
	}
	dialer := net.Dialer{Timeout: patience}
	if local != 0 && protocol == "tcp" {
		dialer.LocalAddr = &net.TCPAddr{Port: local}
	}
	if local != 0 && protocol == "udp" {
		dialer.LocalAddr = &net.UDPAddr{Port: local}
	}
	conn, err := dialer.Dial(protocol, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(conn, "hello\n"); err != nil {
		return err
	}
	buffer := make([]byte, 65536)
	n, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", buffer[:n])
	return nil
}
