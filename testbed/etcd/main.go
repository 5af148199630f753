// The etcd server from its published module: newer than Debian's, which cannot tell the API server how far a watch is.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
