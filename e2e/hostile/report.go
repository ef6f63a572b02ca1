package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"time"
)

// Report attacks until ctx ends, and writes the counts as a line of JSON, again and again.
func (a *Attacker) Report(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() {
		cancel()
		<-done
	}()
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := json.NewEncoder(w).Encode(a.Counts()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-done:
			return json.NewEncoder(w).Encode(a.Counts())
		}
	}
}

// Follow reads what an attacker prints, until it ends: its counts, one object a line.
func Follow(out io.Reader, each func(*Counts)) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var c Counts
		if json.Unmarshal(lines.Bytes(), &c) == nil {
			each(&c)
		}
	}
}
