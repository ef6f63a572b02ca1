package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Nomad reads a task's address once, when the task starts. On every Docker network but the engine's own bridge it registers the
// task's services with it. So the container of a restart in place asks for the address of the one before it. Where it does not get it, its program
// is not run, and Nomad restarts the task: it then sees the new address (docs/nomad.md).

// errAddressChanged is of a container that would have another address than Nomad knows.
var errAddressChanged = errors.New("stopped for new secrets and left to Nomad to restart, since its address changed")

// address is a task's own, empty if it has none.
func address(n *drivers.DriverNetwork) string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.IP)
}

// addressOption is the wrapped driver's option by which a container asks for an address; empty if it is none.
func addressOption(address string) string {
	ip, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return ""
	case ip.Is4() || ip.Is4In6():
		return "ipv4_address"
	}
	return "ipv6_address"
}

// asking is a container's config with the address of the one before it; nil if Nomad does not know that.
func asking(cfg *drivers.TaskConfig, before *drivers.DriverNetwork) (*drivers.TaskConfig, error) {
	option := addressOption(address(before))
	if !before.Advertise() || option == "" {
		return nil, nil
	}
	var options map[string]any
	if err := cfg.DecodeDriverConfig(&options); err != nil {
		return nil, fmt.Errorf("read the wrapped driver's config: %w", err)
	}
	options[option] = address(before)
	cfg = cfg.Copy()
	if err := cfg.EncodeConcreteDriverConfig(options); err != nil {
		return nil, fmt.Errorf("write the wrapped driver's config: %w", err)
	}
	return cfg, nil
}

// startInner starts the container, with the address of the one before it if the engine gives it that.
func (st *containerStart) startInner(ctx context.Context, cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	t := st.t
	asked, err := asking(cfg, t.currentProcess().network)
	if err != nil {
		return nil, nil, err
	}
	if asked != nil {
		handle, network, err := t.d.startInner(asked, t.logs)
		if err == nil || st.away(ctx, err) {
			return handle, network, err
		}
		t.d.log.Debug("the task's address cannot be asked for, or something else is wrong: the container is started without it", "task_id", t.cfg.ID, "error", err)
	}
	return t.d.startInner(cfg, t.logs)
}

// keepAddress refuses a container that has not the address that Nomad knows.
func (st *containerStart) keepAddress(context.Context) error {
	before, now := st.t.currentProcess().network, st.started.network
	if before.Advertise() && address(before) != address(now) {
		return fmt.Errorf("%w: it had %s, and %s now", errAddressChanged, address(before), address(now))
	}
	return nil
}

// tellAddress says at a task's start that its restarts in place may be left to Nomad.
func (st *containerStart) tellAddress(ctx context.Context) error {
	t := st.t
	first := t.currentProcess().handle == nil
	restarts := slices.ContainsFunc(t.session.Spec().Secrets, func(s secrets.Secret) bool { return s.Change.Mode == secrets.Restart })
	if !first || !restarts || !st.started.network.Advertise() || st.givesAddress(ctx) {
		return nil
	}
	t.Event(fmt.Sprintf("Secrets: on Docker network %q a container cannot ask for its address. If a restart for new secrets changes the address, Nomad restarts the task, and that counts as a failure; create the network with --subnet to avoid this",
		st.network))
	return nil
}

// givesAddress reports whether the container's network is one on which a container may ask for an address: the engine allows that where an
// operator has given the network a subnet. The engine does not tell which networks those are, but the subnets that it gives itself are known.
func (st *containerStart) givesAddress(ctx context.Context) bool {
	found, err := st.docker.NetworkInspect(ctx, st.network, network.InspectOptions{})
	if err != nil || found.Name == network.NetworkBridge {
		return false
	}
	pools := enginePools(ctx, st.docker)
	return slices.ContainsFunc(found.IPAM.Config, func(c network.IPAMConfig) bool {
		return c.IPRange != "" || c.Gateway == "" || len(c.AuxAddress) > 0 || !fromPools(c.Subnet, pools)
	})
}

// pool is where an engine takes the subnets from that it gives networks itself.
type pool struct {
	base netip.Prefix
	size int
}

// enginePools are those of the engine's configuration, and those that it has without.
func enginePools(ctx context.Context, docker *client.Client) []pool {
	pools := []pool{{netip.MustParsePrefix("172.16.0.0/12"), 16}, {netip.MustParsePrefix("192.168.0.0/16"), 20}}
	info, err := docker.Info(ctx)
	if err != nil {
		return pools
	}
	for _, p := range info.DefaultAddressPools {
		if base, err := netip.ParsePrefix(p.Base); err == nil {
			pools = append(pools, pool{base, p.Size})
		}
	}
	return pools
}

func fromPools(subnet string, pools []pool) bool {
	net, err := netip.ParsePrefix(subnet)
	return err == nil && slices.ContainsFunc(pools, func(p pool) bool { return p.size == net.Bits() && p.base.Contains(net.Addr()) })
}
