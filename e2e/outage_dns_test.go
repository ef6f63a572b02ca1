package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

const serverName = "vault.e2e.example"

// The name of the secrets server stops resolving: an outage like any other. Tasks run on (C3), a start
// waits and gives an error that Nomad may retry (S2), and all heals when the name is back.
func TestServersNameIsGone(t *testing.T) {
	t.Parallel()
	names := newNameServer(t)
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(proxy.Addr, "http://"))
	require.NoError(t, err)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "name", Placement: placement, ClientCommand: names.only(t),
		Secrets: map[string]any{
			"address": "http://" + net.JoinHostPort(serverName, port), "lease_check_interval": "4s", "start_timeout": "4s",
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newOutageLab(t, agent, shared.Vault, 2*time.Minute)
	tasks := l.Start(agent.AuthPath, lab.OutageJob{Name: "name-kept", Driver: "raw_exec", Count: 2, TTL: 5 * time.Minute})
	tokens := l.TokensOf(tasks[0].Job)
	require.Positive(t, names.asked.Load())

	at := time.Now()
	names.gone.Store(true)
	proxy.Refuse() // a connection outlives the name that it was made by
	require.NoError(t, proxy.Accept())
	l.AwaitEvent(tasks, at, "server unreachable; credentials stay valid until ")
	late := lab.OutageJob{Name: "name-late", Driver: "raw_exec", Count: 1, TTL: 5 * time.Minute}
	l.Prepare(agent.AuthPath, &late)
	job := l.SubmitJob(late)
	l.Until("a start to be given up for now", func() error {
		allocs, err := job.Allocs(l.Ctx)
		if err != nil || len(allocs) == 0 {
			return fmt.Errorf("no allocation yet: %w", err)
		}
		events, err := allocs[0].Events(l.Ctx, lab.App)
		if all := strings.Join(events, "\n"); err == nil && !(strings.Contains(all, "gave up waiting") && strings.Contains(all, serverName)) {
			err = fmt.Errorf("events: %q", events)
		}
		return err
	})

	back := time.Now()
	names.gone.Store(false)
	l.AwaitEvent(tasks, back, "server reachable again")
	l.AwaitRequests(l.Mark(), "sys/leases/lookup", tokens)
	alloc, err := job.Running(l.Ctx)
	require.NoError(t, err)
	l.Lines(alloc, lab.App, "login user=", 1)
	l.Undisturbed(tasks)
	l.OneLeaseEach(tasks[0].Job) // nothing was fetched anew
	require.Equal(t, tokens, l.TokensOf(tasks[0].Job))
}

// nameServer says that every name is 127.0.0.1, or that there is none.
type nameServer struct {
	conn  net.PacketConn
	gone  atomic.Bool
	asked atomic.Int64
}

func newNameServer(t *testing.T) *nameServer {
	// A resolver knows no other port. The address is on the loopback device, like all of 127/8.
	conn, err := net.ListenPacket("udp", fmt.Sprintf("127.53.%d.%d:53", rand.IntN(256), 1+rand.IntN(254)))
	require.NoError(t, err)
	s := &nameServer{conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return s
}

// only is a command under which a program asks nobody else for names.
func (s *nameServer) only(t *testing.T) []string {
	t.Helper()
	host, _, err := net.SplitHostPort(s.conn.LocalAddr().String())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(file, []byte("nameserver "+host+"\noptions timeout:1 attempts:2\n"), 0o644))
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, file}
}

func (s *nameServer) serve() {
	packet := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		s.asked.Add(1)
		if answer := s.answer(packet[:n]); answer != nil {
			_, _ = s.conn.WriteTo(answer, from)
		}
	}
}

// answer is a message as RFC 1035 has it: a header of 12 bytes, the question (a name that ends with an
// empty label, a type and a class), and the record.
func (s *nameServer) answer(query []byte) []byte {
	const header, typeA, noSuchName = 12, 1, 3
	end := header
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5
	if len(query) < end {
		return nil
	}
	answer := append([]byte{}, query[:end]...)
	answer[2], answer[3] = 0x81, 0x80 // an answer, and we recurse
	clear(answer[6:header])           // no records
	if s.gone.Load() {
		answer[3] |= noSuchName
		return answer
	}
	if query[end-4] == 0 && query[end-3] == typeA {
		answer[7] = 1
		answer = append(answer, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
	}
	return answer
}
