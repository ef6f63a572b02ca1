package harness

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
	_ "github.com/lib/pq" // the driver "postgres"
)

// Postgres is a PostgreSQL of its own, in which Vault makes users. It does not run as root, so its
// programs are run as Debian's user for it.
type Postgres struct {
	Addr      string // host:port
	AdminUser string
	AdminPass string
	LogPath   string

	dir   string
	port  int
	proc  *process
	admin *sql.DB
}

// postgresBin is where Debian has the programs of the newest version installed.
func postgresBin() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(dirs) == 0 {
		return "", fmt.Errorf("no /usr/lib/postgresql: install the Debian package postgresql (`make deps`)")
	}
	slices.Sort(dirs)
	return dirs[len(dirs)-1], nil
}

func startPostgres(ctx context.Context, dir string) (*Postgres, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	p := &Postgres{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), AdminUser: "vault_admin", AdminPass: "admin-password-of-the-tests",
		LogPath: filepath.Join(dir, "postgres.log"), dir: dir, port: port,
	}
	pass := filepath.Join(dir, "password")
	if err := os.WriteFile(pass, []byte(p.AdminPass), 0o644); err != nil {
		return nil, err
	}
	args := append(asPostgres(), filepath.Join(bin, "initdb"), "--pgdata="+p.dataDir(), "--username="+p.AdminUser,
		"--pwfile="+pass, "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if p.admin, err = p.open(p.AdminUser, p.AdminPass); err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

func (p *Postgres) dataDir() string { return filepath.Join(p.dir, "data") }

// asPostgres runs a program as the user; a change of user would undo what kills it when we die.
func asPostgres() []string {
	return []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--"}
}

// Start starts the server, again on the same data if it was stopped.
func (p *Postgres) Start(ctx context.Context) error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	args := append(asPostgres(), filepath.Join(bin, "postgres"), "-D", p.dataDir(), "-h", "127.0.0.1", "-p", strconv.Itoa(p.port),
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50")
	if p.proc, err = startProcess("postgres", p.LogPath, nil, args[0], args[1:]...); err != nil {
		return err
	}
	return Until(ctx, "PostgreSQL to answer", func() error {
		if err := p.proc.alive(); err != nil {
			return err
		}
		return p.admin.PingContext(ctx)
	})
}

// Stop ends the server; its data stay.
func (p *Postgres) Stop() { p.proc.stop(syscall.SIGINT, 20*time.Second) }

func (p *Postgres) open(user, password string) (*sql.DB, error) {
	return sql.Open("postgres", fmt.Sprintf("host=127.0.0.1 port=%d user='%s' password='%s' dbname=postgres sslmode=disable connect_timeout=5", p.port, user, password))
}

// Exec runs a statement as the administrator.
func (p *Postgres) Exec(ctx context.Context, statement string) error {
	_, err := p.admin.ExecContext(ctx, statement)
	return err
}

// Users are the users that Vault made and has not dropped: their names begin with v-.
func (p *Postgres) Users(ctx context.Context) ([]string, error) {
	return usersOf(ctx, p.admin, "SELECT usename FROM pg_user WHERE usename LIKE 'v-%' ORDER BY 1")
}

// CanLogin says whether the server lets user in. An error that is not a refusal counts as no.
func (p *Postgres) CanLogin(ctx context.Context, user, password string) bool {
	conn, err := p.open(user, password)
	if err != nil {
		return false
	}
	defer conn.Close()
	return conn.PingContext(ctx) == nil
}

// EnablePostgres mounts a database engine that may make users in p, as the connection "postgres".
func (v *Vault) EnablePostgres(ctx context.Context, mount string, p *Postgres) error {
	if err := v.mount(ctx, mount, &api.MountInput{Type: "database"}); err != nil {
		return err
	}
	return v.write(ctx, mount+"/config/postgres", map[string]any{
		"plugin_name":    "postgresql-database-plugin",
		"connection_url": "postgresql://{{username}}:{{password}}@" + p.Addr + "/postgres?sslmode=disable",
		"username":       p.AdminUser, "password": p.AdminPass, "allowed_roles": "*",
	})
}

// PostgresRole makes mount/creds/name give users that live for ttl and can be renewed up to maxTTL.
func (v *Vault) PostgresRole(ctx context.Context, mount, name string, ttl, maxTTL time.Duration) error {
	return v.write(ctx, mount+"/roles/"+name, map[string]any{
		"db_name":             "postgres",
		"creation_statements": []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		"default_ttl":         ttl.String(), "max_ttl": maxTTL.String(),
	})
}

// StaticRole makes mount/static-creds/name the password of user, which Vault changes every period.
func (v *Vault) StaticRole(ctx context.Context, mount, connection, name, user string, period time.Duration) error {
	return v.write(ctx, mount+"/static-roles/"+name, map[string]any{
		"db_name": connection, "username": user, "rotation_period": period.String(),
	})
}
