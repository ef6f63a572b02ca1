package doctor

import (
	"fmt"
)

// Status is how bad a finding is.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Error   Status = "error"
)

// Finding is one line of what the doctor says.
type Finding struct {
	Status Status `json:"status"`
	Check  string `json:"check"` // what was looked at
	Text   string `json:"text"`
	Do     string `json:"do,omitempty"` // what to do, if it is not ok
}

// Check makes findings of a node. There is at least one for each thing looked at.
func Check(n Node) []Finding {
	var f findings
	f.machine(n)
	f.configuration(n)
	f.plugins(n)
	for _, d := range n.Drivers {
		f.driver(n, d)
	}
	f.metrics(n)
	for _, s := range n.Servers {
		f.server(s)
	}
	for _, s := range n.States {
		f.stateDir(s)
	}
	f.fuse(n)
	return f
}

type findings []Finding

func (f *findings) ok(check, format string, args ...any) {
	*f = append(*f, Finding{Status: OK, Check: check, Text: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(check, text, do string) { *f = append(*f, Finding{Warning, check, text, do}) }

func (f *findings) fail(check, text, do string) { *f = append(*f, Finding{Error, check, text, do}) }

// Worst is the worst status of findings.
func Worst(all []Finding) Status {
	worst := OK
	for _, f := range all {
		if f.Status == Error {
			return Error
		}
		if f.Status == Warning {
			worst = Warning
		}
	}
	return worst
}
