package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports come from below both the kernel's ephemeral range and Nomad's dynamic one, so that nobody
// is handed one of ours between our finding it free and the server's binding it.
const (
	portMin = 10000
	portMax = 19999
)

var ports = struct {
	sync.Mutex
	given map[int]bool
}{given: make(map[int]bool)}

// freePort is a port of 127.0.0.1 that was free for TCP and UDP, and is given out only once.
func freePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for range 200 {
		port := portMin + rand.IntN(portMax-portMin+1)
		if ports.given[port] || !isFree(port) {
			continue
		}
		ports.given[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("no free port found between %d and %d", portMin, portMax)
}

func isFree(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}
