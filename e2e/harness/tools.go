package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/nomad-driver-secrets/nomad-driver-secrets"

// RepoRoot is the directory of the main module's go.mod, found upwards from the working directory.
func RepoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		mod, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+modulePath+"\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod of %s above %s", modulePath, dir)
		}
	}
}

// server finds the pinned Nomad, Vault or Consul: $DRIVER_TEST_NOMAD, …_VAULT or …_CONSUL, then bin/, then
// PATH.
func server(name string) (string, error) {
	env := "DRIVER_TEST_" + strings.ToUpper(name)
	if path := os.Getenv(env); path != "" {
		return path, nil
	}
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	if path := filepath.Join(root, "bin", name); isExecutable(path) {
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("no %s in bin/, in PATH or in $%s: run `make bin/%[1]s`", name, env)
}

// tool finds a program that a Debian package brings; /usr/sbin is not in everybody's PATH.
func tool(name, debianPackage string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); isExecutable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s on this machine: run `make deps` as root, or install the package %s", name, debianPackage)
}

const cniPath = "/usr/lib/cni"

// checkMachine says at once, and with the remedy, what would otherwise fail obscurely much later.
func checkMachine() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("a Nomad client needs root: run as root"))
	}
	if !isExecutable(filepath.Join(cniPath, "bridge")) {
		errs = append(errs, fmt.Errorf("no CNI plugins in %s: run `make deps` as root, or install the package containernetworking-plugins", cniPath))
	}
	for name, pkg := range map[string]string{"iptables": "iptables", "ip": "iproute2"} {
		if _, err := tool(name, pkg); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func isExecutable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}
