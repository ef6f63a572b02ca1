package harness

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is a server of its own, in which Vault makes users.
type MariaDB struct {
	Addr          string // host:port
	AdminUser     string
	AdminPassword string
	LogPath       string

	dir   string
	port  int
	proc  *process
	admin *sql.DB
}

// startMariaDB makes a new server in dir.
func startMariaDB(ctx context.Context, dir string) (*MariaDB, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	// Its own temporary directory, too: a server that starts removes the temporary tables in it, whose ever.
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o755); err != nil {
		return nil, err
	}
	db := &MariaDB{
		Addr:          net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		AdminUser:     "vault_admin",
		AdminPassword: "admin-password-of-the-tests",
		LogPath:       filepath.Join(dir, "mariadb.log"),
		dir:           dir,
		port:          port,
	}
	if err := db.install(ctx); err != nil {
		return nil, err
	}
	if db.admin, err = db.open(db.AdminUser, db.AdminPassword); err != nil {
		return nil, err
	}
	return db, db.Start(ctx)
}

func (db *MariaDB) install(ctx context.Context) error {
	install, err := tool("mariadb-install-db", "mariadb-server")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, install, "--no-defaults", "--user=root",
		"--datadir="+db.dataDir(), "--tmpdir="+db.tmpDir(), "--auth-root-authentication-method=normal",
		"--skip-test-db") // and with it no anonymous users, who would shadow Vault's
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	// Run at every start; root has no password, and is let in from this machine alone.
	sql := fmt.Sprintf("CREATE OR REPLACE USER '%s'@'127.0.0.1' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'127.0.0.1' WITH GRANT OPTION;\n",
		db.AdminUser, db.AdminPassword, db.AdminUser)
	return os.WriteFile(db.initFile(), []byte(sql), 0o600)
}

func (db *MariaDB) dataDir() string  { return filepath.Join(db.dir, "data") }
func (db *MariaDB) tmpDir() string   { return filepath.Join(db.dir, "tmp") }
func (db *MariaDB) initFile() string { return filepath.Join(db.dir, "init.sql") }

// Socket is the server's Unix socket.
func (db *MariaDB) Socket() string { return filepath.Join(db.dir, "sock") }

// Start starts the server, again on the same data if it was stopped.
func (db *MariaDB) Start(ctx context.Context) error {
	mariadbd, err := tool("mariadbd", "mariadb-server")
	if err != nil {
		return err
	}
	db.proc, err = startProcess("mariadbd", db.LogPath, nil, mariadbd, "--no-defaults", "--user=root",
		"--datadir="+db.dataDir(), "--tmpdir="+db.tmpDir(), "--socket="+db.Socket(), "--pid-file="+filepath.Join(db.dir, "pid"),
		"--bind-address=127.0.0.1", "--port="+strconv.Itoa(db.port), "--init-file="+db.initFile(),
		"--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M",
		"--innodb-flush-log-at-trx-commit=0", "--max-connections=500")
	if err != nil {
		return err
	}
	return Until(ctx, "MariaDB to answer", func() error {
		if err := db.proc.alive(); err != nil {
			return err
		}
		return db.admin.PingContext(ctx)
	})
}

// Stop ends the server; its data stay.
func (db *MariaDB) Stop() { db.proc.stop(syscall.SIGTERM, 20*time.Second) }

// Exec runs a statement as the administrator.
func (db *MariaDB) Exec(ctx context.Context, statement string) error {
	_, err := db.admin.ExecContext(ctx, statement)
	return err
}

// Users are the users that Vault made and has not dropped: their names begin with v-.
func (db *MariaDB) Users(ctx context.Context) ([]string, error) {
	return usersOf(ctx, db.admin, "SELECT user FROM mysql.user WHERE user LIKE 'v-%' ORDER BY user")
}

func usersOf(ctx context.Context, db *sql.DB, query string) ([]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var users []string
	for rows.Next() {
		var user string
		if err := rows.Scan(&user); err != nil {
			return nil, err
		}
		users = append(users, user)
	}
	return users, rows.Err()
}

// Running is how many connections execute this statement now.
func (db *MariaDB) Running(ctx context.Context, statement string) (n int, err error) {
	err = db.admin.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.processlist WHERE info = ?", statement).Scan(&n)
	return n, err
}

// Lock takes one of the server's named locks, so that statements with GET_LOCK wait for release.
func (db *MariaDB) Lock(ctx context.Context, name string) (release func() error, err error) {
	conn, err := db.admin.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var got int
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 10)", name).Scan(&got); err != nil || got != 1 {
		return nil, errors.Join(fmt.Errorf("lock %s: got %d", name, got), err, conn.Close())
	}
	return func() error {
		_, err := conn.ExecContext(ctx, "DO RELEASE_LOCK(?)", name)
		return errors.Join(err, conn.Close())
	}, nil
}

// CanLogin says whether the server lets user in. An error that is not a refusal counts as no.
func (db *MariaDB) CanLogin(ctx context.Context, user, password string) bool {
	conn, err := db.open(user, password)
	if err != nil {
		return false
	}
	defer conn.Close()
	return conn.PingContext(ctx) == nil
}

func (db *MariaDB) open(user, password string) (*sql.DB, error) {
	conf := mysql.NewConfig()
	conf.Net, conf.Addr, conf.User, conf.Passwd = "tcp", db.Addr, user, password
	conf.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
