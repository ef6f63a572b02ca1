package harness

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Dump writes what helps to understand a failure: the events and logs of the jobs, and the end of the
// agent's log.
func (a *Agent) Dump(w io.Writer, jobs ...*Job) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, job := range jobs {
		job.dump(ctx, w)
	}
	fmt.Fprintf(w, "=== the end of %s\n%s\n", a.LogPath, a.LogTail(60))
}

func (j *Job) dump(ctx context.Context, w io.Writer) {
	fmt.Fprintf(w, "=== job %s\n", j.ID)
	if err := j.unplaced(ctx); err != nil {
		fmt.Fprintln(w, err)
	}
	allocs, err := j.Allocs(ctx)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	for _, alloc := range allocs {
		info, err := alloc.Info(ctx)
		if err != nil {
			fmt.Fprintln(w, err)
			continue
		}
		fmt.Fprintf(w, "--- allocation %s: wanted %s, is %s %s\n%s", alloc.ID, info.DesiredStatus, info.ClientStatus, info.ClientDescription, eventsOf(info))
		for task := range info.TaskStates {
			for _, stream := range []string{"stdout", "stderr"} {
				out, err := alloc.Logs(task, stream)
				if err != nil {
					out = err.Error()
				}
				if out != "" {
					fmt.Fprintf(w, "--- %s of task %s, its last 2000 bytes\n%s\n", stream, task, out[max(0, len(out)-2000):])
				}
			}
		}
	}
}
