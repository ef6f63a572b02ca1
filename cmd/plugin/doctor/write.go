package doctor

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
)

// colours of a terminal, by status.
var colours = map[Status]text.Color{OK: text.FgGreen, Warning: text.FgYellow, Error: text.FgRed}

// indent is how wide the column of statuses is.
const indent = 8

// Write prints findings, a line each, and below those that are not ok what to do.
func Write(s screen.Screen, all []Finding) error {
	counts := map[Status]int{}
	var out strings.Builder
	for _, f := range all {
		counts[f.Status]++
		status := s.Paint(fmt.Sprintf("%-*s", indent, f.Status), colours[f.Status])
		out.WriteString(s.Wrap(status, indent, f.Check+": "+f.Text))
		if f.Do != "" {
			out.WriteString(s.Wrap(strings.Repeat(" ", indent), indent, "to do: "+f.Do))
		}
	}
	fmt.Fprintf(&out, "\n%s, %s, %d ok\n", screen.Counted(counts[Error], "error"), screen.Counted(counts[Warning], "warning"), counts[OK])
	_, err := io.WriteString(s.Out, out.String())
	return err
}
