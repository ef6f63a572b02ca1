package doctor

import (
	"fmt"
	"net"
)

// metrics warns of plugins that would listen where another does: each is a process of its own.
func (f *findings) metrics(n Node) {
	for i, d := range n.Drivers {
		for _, other := range n.Drivers[:i] {
			if sameListener(d.Settings.Metrics, other.Settings.Metrics) {
				f.warn("plugin "+d.Name, fmt.Sprintf("metrics: %s is the address of plugin %q too, and only one of them can listen there", d.Settings.Metrics, other.Name),
					"give each plugin a port of its own, and have Prometheus read both")
			}
		}
	}
}

// sameListener reports whether two addresses cannot be listened at together: one port, of one host or of all.
func sameListener(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

func everywhere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}
