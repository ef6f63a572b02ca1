package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// jobOptions are what every command about a job's file takes.
type jobOptions struct {
	file   string
	asJSON bool
	read   jobfile.Options
}

func (o *jobOptions) flags(f *flag.FlagSet) {
	f.SetOutput(io.Discard)
	f.BoolVar(&o.asJSON, "json", false, "")
	f.Func("var", "", appendTo(&o.read.Vars))
	f.Func("var-file", "", appendTo(&o.read.VarFiles))
}

// parse reads the arguments: options before the file or after it.
func (o *jobOptions) parse(f *flag.FlagSet, args []string) error {
	var files []string
	for len(args) > 0 {
		if args[0] == "-" {
			files, args = append(files, args[0]), args[1:]
			continue
		}
		if err := f.Parse(args); err != nil {
			return err
		}
		if args = f.Args(); len(args) > 0 {
			files, args = append(files, args[0]), args[1:]
		}
	}
	switch len(files) {
	case 0:
		return errors.New("no job file given")
	case 1:
		o.file, o.read.Env = files[0], os.Environ()
		return nil
	}
	return fmt.Errorf("more than one job file given: %s", strings.Join(files, " "))
}

// open reads the job's file; - is standard input.
func (o *jobOptions) open(stdin io.Reader) (*jobfile.File, []jobfile.Problem, error) {
	if o.file == "-" {
		src, err := io.ReadAll(stdin)
		if err != nil {
			return nil, nil, fmt.Errorf("read standard input: %w", err)
		}
		file, problems := jobfile.Parse("stdin", src, o.read)
		return file, problems, nil
	}
	src, err := os.ReadFile(o.file)
	if err != nil {
		return nil, nil, err
	}
	file, problems := jobfile.Parse(o.file, src, o.read)
	return file, problems, nil
}

// jobFlagsHelp is about the options of jobOptions.
const jobFlagsHelp = `  -var NAME=VALUE    a variable of the job's, as nomad job run takes it
  -var-file FILE     a file of them
  -json              JSON instead of text`

// vaultOfEnv is the server that the environment names, as the vault command reads it, with the caller's token; nil: it
// names none.
func vaultOfEnv() (*vault.Client, secrets.Token, error) {
	address := os.Getenv("VAULT_ADDR")
	if address == "" {
		return nil, secrets.Token{}, nil
	}
	skip, err := strconv.ParseBool(os.Getenv("VAULT_SKIP_VERIFY"))
	if err != nil {
		skip = false // it is not there
	}
	client, err := vault.New(vault.Config{
		Address: address, Namespace: os.Getenv("VAULT_NAMESPACE"),
		CACert: os.Getenv("VAULT_CACERT"), CAPath: os.Getenv("VAULT_CAPATH"),
		ClientCert: os.Getenv("VAULT_CLIENT_CERT"), ClientKey: os.Getenv("VAULT_CLIENT_KEY"),
		TLSServerName: os.Getenv("VAULT_TLS_SERVER_NAME"), TLSSkipVerify: skip,
	})
	if err != nil {
		return nil, secrets.Token{}, err
	}
	token := os.Getenv("VAULT_TOKEN")
	if home, err := os.UserHomeDir(); err == nil && token == "" {
		if b, err := os.ReadFile(filepath.Join(home, ".vault-token")); err == nil {
			token = strings.TrimSpace(string(b))
		}
	}
	if token == "" {
		client.Close()
		return nil, secrets.Token{}, errors.New("VAULT_ADDR names a server, and there is no token to ask it with: set VAULT_TOKEN, or run vault login")
	}
	return client, secrets.Token{Value: secrets.TextValue(token)}, nil
}
