package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Logs is all that a task has printed on "stdout" or "stderr" so far, over all its processes.
func (a *Alloc) Logs(task, stream string) (string, error) {
	files, err := filepath.Glob(a.Dir("alloc", "logs", task+"."+stream+".*"))
	if err != nil {
		return "", err
	}
	sort.Slice(files, func(i, j int) bool { return rotation(files[i]) < rotation(files[j]) })
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all.Write(content)
	}
	return all.String(), nil
}

// rotation is the number at the end of a log file's name.
func rotation(file string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(filepath.Ext(file), "."))
	return n
}

// Lines are the lines of a task's stdout that begin with prefix, without it. A line that is not yet
// complete is left out.
func (a *Alloc) Lines(task, prefix string) ([]string, error) {
	out, err := a.Logs(task, "stdout")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(rest, "\n") {
			found = append(found, strings.TrimSuffix(rest, "\n"))
		}
	}
	return found, nil
}

// WaitLines waits until stdout has at least n lines that begin with prefix, and returns them without
// it.
func (a *Alloc) WaitLines(ctx context.Context, task, prefix string, n int) ([]string, error) {
	var found []string
	err := Until(ctx, fmt.Sprintf("%d lines %q of task %s", n, prefix, task), func() (err error) {
		if found, err = a.Lines(task, prefix); err != nil {
			return err
		}
		if len(found) < n {
			return fmt.Errorf("there are %d", len(found))
		}
		return nil
	})
	return found, err
}

// tail is the last lines of a file, or why it cannot be read.
func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(content), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}
