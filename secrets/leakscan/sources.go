package leakscan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Text is something that is in memory already.
func Text(name, place string, content []byte) Source {
	return Source{Name: name, read: func(_ context.Context, v *visitor) error {
		return v.visit(place, bytes.NewReader(content))
	}}
}

// Command is what a program prints, on both outputs. One that fails is an error, after its output
// was searched.
func Command(name, program string, args ...string) Source {
	return Source{Name: name, read: func(ctx context.Context, v *visitor) error {
		out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
		line := strings.Join(append([]string{program}, args...), " ")
		if err != nil {
			err = fmt.Errorf("%s: %w", v.scanner.redact(line), err)
		}
		return errors.Join(v.visit(line, bytes.NewReader(out)), err)
	}}
}

// URLs is what a GET of each answers. A status from 400 on is an error, after the answer was searched.
func URLs(name string, urls ...string) Source {
	return Source{Name: name, read: func(ctx context.Context, v *visitor) error {
		var errs []error
		for _, url := range urls {
			errs = append(errs, visitURL(ctx, v, url))
		}
		return errors.Join(errs...)
	}}
}

func visitURL(ctx context.Context, v *visitor, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%s: not a URL", v.scanner.redact(url))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var of *neturl.Error // it repeats the URL
		if errors.As(err, &of) {
			err = of.Err
		}
		return fmt.Errorf("%s: %w", v.scanner.redact(url), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := v.visit(url, resp.Body); err != nil {
		return fmt.Errorf("%s: %w", v.scanner.redact(url), err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", v.scanner.redact(url), resp.Status)
	}
	return nil
}

// Processes is the command line of every process, and the environment of those that environ names. A
// program that is meant to have a value has it in its environment, so that not all are looked at.
func Processes(name string, environ ...int) Source {
	return Source{Name: name, read: func(_ context.Context, v *visitor) error {
		pids, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		var errs []error
		for _, dir := range pids {
			errs = append(errs, visitProc(v, filepath.Join(dir, "cmdline")))
		}
		for _, pid := range environ {
			errs = append(errs, visitProc(v, filepath.Join("/proc", strconv.Itoa(pid), "environ")))
		}
		return errors.Join(errs...)
	}}
}

func visitProc(v *visitor, path string) error {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		err = v.visit(path, f)
	}
	if gone(err) {
		return nil
	}
	return err
}

// gone is true of the errors of what has ended, or was removed, since it was listed.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
