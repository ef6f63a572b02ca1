package doctor

import (
	"fmt"
	"io"
)

// colours of a terminal, by status.
var colours = map[Status]string{OK: "\x1b[32m", Warning: "\x1b[33m", Error: "\x1b[31m"}

// Write prints findings, a line each, and below those that are not ok what to do.
func Write(w io.Writer, all []Finding, colour bool) error {
	counts := map[Status]int{}
	for _, f := range all {
		counts[f.Status]++
		status := fmt.Sprintf("%-8s", f.Status)
		if colour {
			status = colours[f.Status] + status + "\x1b[0m"
		}
		if _, err := fmt.Fprintf(w, "%s%s: %s\n", status, f.Check, f.Text); err != nil {
			return err
		}
		if f.Do != "" {
			if _, err := fmt.Fprintf(w, "%8sto do: %s\n", "", f.Do); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "\n%d errors, %d warnings, %d ok\n", counts[Error], counts[Warning], counts[OK])
	return err
}
