package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-acme/lego/v5/log"
	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/authority"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/challenge"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/dnsprovider"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/issuer"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/redact"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/telemetry"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// closeTimeout bounds the revocation of the token at the end.
const closeTimeout = 3 * time.Second

// serve reads the configuration and does what the mode says until it is done or ctx ends.
func serve(ctx context.Context, file string, m mode, stdout, stderr io.Writer) (err error) {
	conf, err := config.Load(file)
	if err != nil {
		return &usageError{err}
	}
	redactor := redact.New(credentials(conf))
	logConf := config.Log{}
	if conf.Log != nil {
		logConf = *conf.Log
	}
	if logConf.Level == "" {
		logConf.Level = "info"
	}
	logger := telemetry.NewLog(stderr, logConf.Level, logConf.JSON)
	log.SetDefault(telemetry.Slog(logger, redactor))

	session, err := vault.NewSession(vaultOptions(conf.Vault))
	if err != nil {
		return &usageError{err}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if closeErr := session.Close(ctx); closeErr != nil {
			logger.Warn("the token could not be revoked and ends by itself", "error", closeErr)
		}
	}()
	if m.check {
		if err := checkVault(ctx, session, conf); err != nil {
			return &usageError{err}
		}
		fmt.Fprintf(stdout, "%s: %d certificates, %d challenges: ok\n", file, len(conf.Certificates), len(conf.Challenges))
		return nil
	}

	solvers, err := challenge.Listen(conf)
	if err != nil {
		return err
	}
	defer solvers.Close()
	stored := store.New(session, conf.Storage.Path)
	acme := authority.New(conf.Account, stored, solvers)
	defer acme.Close()
	metrics := telemetry.NewMetrics(names(conf))
	if conf.HTTP != nil {
		server, err := telemetry.Listen(conf.HTTP.Address, metrics, func(ctx context.Context) error {
			return session.Ping(ctx, conf.Storage.Path)
		})
		if err != nil {
			return fmt.Errorf("http: %w", err)
		}
		defer func() { err = errors.Join(err, server.Close()) }()
	}
	keeper := issuer.New(issuer.Options{
		Config: conf, Store: stored, Authority: acme, Redactor: redactor, Metrics: metrics, Log: logger,
	})
	if m.once {
		return keeper.Once(ctx)
	}
	logger.Info("keeping certificates", "count", len(conf.Certificates), "directory", conf.Account.Directory)
	keeper.Run(ctx)
	return nil
}

// credentials are the variables that providers may have credentials in.
func credentials(conf *config.Config) []string {
	variables := os.Environ()
	for _, ch := range conf.Challenges {
		for name, value := range ch.Environment {
			variables = append(variables, name+"="+value)
		}
	}
	if b := conf.Account.Binding; b != nil {
		variables = append(variables, "HMAC_KEY="+b.HMACKey)
	}
	return variables
}

// vaultOptions completes the configuration with what Nomad puts into a task: without a setting for the token,
// that of the job's vault block is used, from its file, since Nomad replaces it there.
func vaultOptions(conf *config.Vault) vault.Options {
	opts := vault.Options{}
	if conf != nil {
		opts = vault.Options{Address: conf.Address, Namespace: conf.Namespace, CACert: conf.CACert, TokenFile: conf.TokenFile}
		if j := conf.JWT; j != nil {
			opts.JWT = &vault.JWT{Path: j.Path, Role: j.Role, File: j.File}
		}
	}
	if opts.JWT == nil && opts.TokenFile == "" {
		if dir := os.Getenv("NOMAD_SECRETS_DIR"); dir != "" {
			file := filepath.Join(dir, "vault_token")
			if _, err := os.Stat(file); err == nil {
				opts.TokenFile = file
			}
		}
	}
	return opts
}

// checkVault finds out whether everything that the issuer will read and write can be.
func checkVault(ctx context.Context, session *vault.Session, conf *config.Config) error {
	var wrong config.Errors
	check := func(path string, at hcl.Range, what string) {
		if err := session.Check(ctx, path); err != nil {
			wrong = append(wrong, config.At(at, what+" cannot be kept at "+path, err.Error()))
		}
	}
	storage := strings.Trim(conf.Storage.Path, "/")
	check(storage+"/accounts/any", conf.Storage.PathRange, "the account")
	check(storage+"/locks/any", conf.Storage.PathRange, "locks")
	for _, cert := range conf.Certificates {
		check(cert.Path, cert.PathRange, fmt.Sprintf("certificate %q", cert.Name))
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

func names(conf *config.Config) (all []string) {
	for _, cert := range conf.Certificates {
		all = append(all, cert.Name)
	}
	return all
}

func listProviders(out io.Writer) {
	fmt.Fprintf(out, "built in:     %s\nnot built in: %s\n",
		strings.Join(dnsprovider.Names(), " "), strings.Join(dnsprovider.LeftOut(), " "))
}
