package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/cli"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

const name = "nomad-driver-secrets"

// commandTable is every command by its name. A command's Run gives its exit status: 0; 1 when what it looks for is wrong or its work
// failed (a warning does not count); 2 for wrong usage.
func commandTable(stdout, stderr io.Writer) map[string]cli.CommandFactory {
	table := map[string]cli.CommandFactory{}
	for name, command := range map[string]cli.Command{
		"check":         checkCommand{os.Stdin, stdout, stderr},
		"policy":        policyCommand{os.Stdin, stdout, stderr},
		"refresh":       operateCommand{lifecycle.Refresh, stdout, stderr},
		"rotate":        operateCommand{lifecycle.Rotate, stdout, stderr},
		"status":        statusCommand{stdout, stderr},
		"audit":         auditCommand{stdout, stderr},
		"doctor":        doctorCommand{stdout, stderr},
		"version":       versionCommand{stdout, stderr},
		"volume-driver": volumeDriverCommand{stderr},
	} {
		table[name] = func() (cli.Command, error) { return command, nil }
	}
	return table
}

// runCommand runs what the arguments (without the program's name) name, and gives its exit status. Without a name, or with help, it lists the commands.
func runCommand(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"-h"}
	}
	if args[0] == "help" {
		args = append(args[1:], "-h")
	}
	table := commandTable(stdout, stderr)
	c := &cli.CLI{
		Name: name, Args: args, Commands: table, HelpFunc: cli.BasicHelpFunc(name),
		HelpWriter: stdout, ErrorWriter: stderr,
	}
	status, err := c.Run()
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	if status == 127 { // cli's own, for a command that is not there
		return 2
	}
	return status
}

// interruptible ends with Ctrl-C, and as systemd ends what it has started.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// parseOptions reads the arguments of a command that takes options only.
func parseOptions(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: the command takes options only", f.Arg(0))
	}
	return nil
}

// usage says what is wrong with the arguments, and how they are to be; for -h that alone.
func usage(stderr io.Writer, command string, err error, help string) int {
	if !errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n\n", command, err)
	}
	_, _ = fmt.Fprintln(stderr, help)
	return 2
}

// appendTo is what an option does that may be given several times.
func appendTo(list *[]string) func(string) error {
	return func(s string) error {
		*list = append(*list, s)
		return nil
	}
}
