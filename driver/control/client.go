package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// statusTimeout is how long a plugin process may take to answer how it stands. It waits for nothing to do so.
const statusTimeout = 3 * time.Second

// Status asks all plugin processes that have their sockets in a state directory how they stand. One that does not answer
// has a Problem.
func Status(ctx context.Context, stateDir string) ([]Report, error) {
	return ask(ctx, stateDir, func(ctx context.Context, s socket, c *http.Client) Report {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		var r Report
		if err := request(ctx, c, http.MethodGet, statusPath, nil, &r); err != nil {
			r = Report{Problem: "it does not answer: " + err.Error()}
		}
		r.Driver, r.PID = s.driver, s.pid // which its socket's directory says, that only root can write to
		return r
	})
}

// Operate has all plugin processes do what an operator asks for, and waits until they have.
func Operate(ctx context.Context, stateDir string, op lifecycle.Operation, sel lifecycle.Selection) ([]Done, error) {
	return ask(ctx, stateDir, func(ctx context.Context, s socket, c *http.Client) Done {
		d := Done{Driver: s.driver, PID: s.pid}
		if err := request(ctx, c, http.MethodPost, opPath+string(op), sel, &d.Outcomes); err != nil {
			d.Problem = "it has not answered: " + err.Error()
		}
		return d
	})
}

// ask asks all plugin processes at once. Their answers come by driver and pid.
func ask[T any](ctx context.Context, stateDir string, one func(context.Context, socket, *http.Client) T) ([]T, error) {
	d, err := openDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) { // there has been none
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	all, _, err := d.sockets()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, d.refuses)
	slices.SortFunc(all, func(a, b socket) int { return cmp.Or(strings.Compare(a.driver, b.driver), cmp.Compare(a.pid, b.pid)) })
	answers := make([]T, len(all))
	var work sync.WaitGroup
	for i, s := range all {
		work.Go(func() {
			c := &http.Client{Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext:       func(context.Context, string, string) (net.Conn, error) { return d.dial(s) },
			}}
			answers[i] = one(ctx, s, c)
		})
	}
	work.Wait()
	return answers, nil
}

func (d dir) dial(s socket) (net.Conn, error) {
	return net.DialTimeout("unix", d.path(s.name), statusTimeout)
}

// refuses reports whether a socket is of a process that has ended.
func (d dir) refuses(s socket) bool {
	c, err := d.dial(s)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func request(ctx context.Context, c *http.Client, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://plugin"+path, body)
	if err != nil {
		return err
	}
	a, err := c.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = a.Body.Close() }()
	limited := io.LimitReader(a.Body, maxAnswer)
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(limited, maxRequest))
		return fmt.Errorf("%s: %s", a.Status, strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(limited).Decode(out)
}
