package harness

import (
	"context"
	"net"
	"sync"

	"github.com/hashicorp/vault/api"
)

// SilentDB accepts connections and never says a word, as a database does whose machine has hung: which a real
// one will not do on demand.
type SilentDB struct {
	Addr string

	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex // guards what follows
	conns    []net.Conn
}

// NewSilentDB starts one. Close ends it.
func NewSilentDB() (*SilentDB, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	db := &SilentDB{Addr: l.Addr().String(), listener: l}
	db.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			db.mu.Lock()
			db.conns = append(db.conns, conn)
			db.mu.Unlock()
		}
	})
	return db, nil
}

// Asked reports whether anybody has connected.
func (db *SilentDB) Asked() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.conns) > 0
}

// Close breaks all connections.
func (db *SilentDB) Close() {
	db.listener.Close()
	db.serving.Wait()
	for _, conn := range db.conns {
		conn.Close()
	}
}

// EnableSilentDB mounts a database engine whose one role, mount/creds/app, is made in db.
func (v *Vault) EnableSilentDB(ctx context.Context, mount string, db *SilentDB) error {
	if err := v.mount(ctx, mount, &api.MountInput{Type: "database"}); err != nil {
		return err
	}
	err := v.write(ctx, mount+"/config/silent", map[string]any{
		"plugin_name":       "mysql-database-plugin",
		"connection_url":    "{{username}}:{{password}}@tcp(" + db.Addr + ")/",
		"username":          "nobody",
		"password":          "none",
		"allowed_roles":     "*",
		"verify_connection": false,
	})
	if err != nil {
		return err
	}
	return v.write(ctx, mount+"/roles/app", map[string]any{
		"db_name": "silent", "creation_statements": []string{"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"},
		"default_ttl": "1h", "max_ttl": "1h",
	})
}
