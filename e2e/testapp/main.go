// Testapp is the program that the end-to-end tests run as a task, in containers and by raw_exec.
// What it prints is for the tests to read: each line begins with a word that says what it is.
//
//	testapp sleep                          wait to be stopped
//	testapp up                             print when the program runs, in microseconds, and wait
//	testapp env NAME...                    print these variables
//	testapp until FILE                     end by itself once the file is there
//	testapp sighup FILE...                 print these files, and again on each SIGHUP
//	testapp dblogin [-files DIR]           log in to MariaDB over and over, with DB_USER, DB_PASSWORD
//	                                       (or DIR/username, DIR/password, read anew each time)
//	testapp pki DIR CERT KEY               read certificate and key below DIR over and over
//	testapp serve DIR CERT KEY             serve TLS with them, read anew on each SIGHUP
//	testapp http ADDR                      serve HTTP; /health fails from the first SIGHUP on
//	testapp socket PATH                    make a unix socket there, and tell of each request to it
//	testapp takeover COMMAND DIR...        go after the FIFOs of others' launchers in these directories, to have
//	                                       them run a shell's command (no start line; the counts as JSON)
//
// Flags before the subcommand hold for all: -exit-after and -exit-code to end by itself, -linger to
// take time over SIGTERM (dblogin logs in meanwhile), -pidfile. Times are Unix milliseconds.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/hostile"
)

var (
	exitAfter = flag.Duration("exit-after", 0, "end by itself after this long")
	exitCode  = flag.Int("exit-code", 0, "with this status")
	linger    = flag.Duration("linger", 0, "go on for this long after SIGTERM")
	pidfile   = flag.String("pidfile", "", "write the pid to this file")
	every     = flag.Duration("every", 50*time.Millisecond, "time between two log-ins or pairs")
	pause     = flag.Duration("pause", 0, "time between a pair's certificate and its key")
)

func main() {
	flag.Parse()
	hangup := make(chan os.Signal, 16)
	signal.Notify(hangup, syscall.SIGHUP) // before the start line: a test may send one at once
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if flag.Arg(0) == "takeover" {
		check(takeover(ctx, flag.Args()[1:]))
		return
	}
	fmt.Printf("start pid=%d uid=%d env=%s began=%d\n", os.Getpid(), os.Getuid(), envHash(), began().UnixMilli())
	if *pidfile != "" {
		check(os.WriteFile(*pidfile, []byte(strconv.Itoa(os.Getpid())), 0o644))
	}
	if *exitAfter > 0 {
		time.AfterFunc(*exitAfter, exit)
	}

	args := flag.Args()
	if len(args) == 0 {
		check(errors.New("no subcommand"))
	}
	switch command, args := args[0], args[1:]; command {
	case "sleep":
		<-ctx.Done()
	case "up":
		fmt.Printf("up %d\n", time.Now().UnixMicro())
		<-ctx.Done()
	case "env":
		for _, name := range args {
			fmt.Printf("env %s=%q\n", name, os.Getenv(name))
		}
		<-ctx.Done()
	case "until":
		until(ctx, args)
	case "sighup":
		sighup(ctx, hangup, args)
	case "dblogin":
		dblogin(later(ctx, *linger), args)
		*linger = 0
	case "pki":
		check(pki(ctx, args))
	case "serve":
		check(serve(ctx, hangup, args))
	case "http":
		check(serveHTTP(ctx, hangup, args))
	case "socket":
		check(fakeSocket(ctx, args))
	default:
		check(fmt.Errorf("unknown subcommand %q", command))
	}
	fmt.Println("stopping")
	time.Sleep(*linger)
}

// exit ends the program as by itself.
func exit() {
	fmt.Printf("exit code=%d\n", *exitCode)
	os.Exit(*exitCode)
}

// takeover ends, too, when whoever reads its counts has gone.
func takeover(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: takeover COMMAND DIR, one or more")
	}
	a := &hostile.Attacker{Dirs: args[1:], Command: []string{"/bin/sh", "-c", args[0]}}
	return a.Report(ctx, os.Stdout)
}

func until(ctx context.Context, args []string) {
	if len(args) != 1 {
		check(errors.New("usage: until FILE"))
	}
	for tick := time.NewTicker(*every); ; {
		if _, err := os.Stat(args[0]); err == nil {
			exit()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// envHash tells two environments apart without showing them.
func envHash() string {
	env := os.Environ()
	slices.Sort(env)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(env, "\x00"))))[:16]
}

// began is when this process was made, to a hundredth of a second: before the program could say so.
func began() time.Time {
	stat, err := os.ReadFile("/proc/self/stat")
	check(err)
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before may have spaces in it
	ticks, err := strconv.ParseInt(strings.Fields(rest)[19], 10, 64)
	check(err)
	var up unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_BOOTTIME, &up))
	age := time.Duration(up.Nano()) - time.Duration(ticks)*10*time.Millisecond
	return time.Now().Add(-age)
}

// later is a context that ends d after ctx.
func later(ctx context.Context, d time.Duration) context.Context {
	if d == 0 {
		return ctx
	}
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return late
}

func sighup(ctx context.Context, hangup <-chan os.Signal, files []string) {
	show := func(word string) {
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				fmt.Printf("%s %s error=%q\n", word, file, err)
				continue
			}
			fmt.Printf("%s %s %q\n", word, file, content)
		}
	}
	show("file")
	for {
		select {
		case <-hangup:
			fmt.Println("hangup")
			show("changed")
		case <-ctx.Done():
			return
		}
	}
}

// dblogin logs in with a new connection each time. It prints the first success of each user, every
// refusal, and at the end the counts, when the last success was, and when it ended.
func dblogin(ctx context.Context, args []string) {
	flags := flag.NewFlagSet("dblogin", flag.ExitOnError)
	dir := flags.String("files", "", "directory with the files username and password")
	check(flags.Parse(args))

	var oks, refusals int
	var lastUser string
	var lastOK time.Time
	for tick := time.NewTicker(*every); ; {
		user, err := login(ctx, *dir)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			refusals++
			fmt.Printf("refused user=%s at=%d %v\n", user, time.Now().UnixMilli(), err)
		default:
			oks++
			lastOK = time.Now()
			if user != lastUser {
				lastUser = user
				fmt.Printf("login user=%s\n", user)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			fmt.Printf("counts ok=%d refused=%d last=%d ended=%d\n", oks, refusals, lastOK.UnixMilli(), time.Now().UnixMilli())
			return
		}
	}
}

func login(ctx context.Context, dir string) (user string, err error) {
	user, password := os.Getenv("DB_USER"), os.Getenv("DB_PASSWORD")
	if dir != "" {
		// Both through one open directory, so that they are of one set (S6).
		set, err := os.OpenRoot(dir)
		if err != nil {
			return "", err
		}
		defer set.Close()
		u, err := set.ReadFile("username")
		if err != nil {
			return "", err
		}
		p, err := set.ReadFile("password")
		if err != nil {
			return "", err
		}
		user, password = string(u), string(p)
	}
	conf := mysql.NewConfig()
	conf.Net, conf.Addr, conf.User, conf.Passwd = "tcp", os.Getenv("DB_ADDR"), user, password
	if filepath.IsAbs(conf.Addr) {
		conf.Net = "unix"
	}
	conf.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return user, err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	return user, db.PingContext(ctx)
}

// pki opens the directory once a pair, then certificate and key by openat. It prints each new
// certificate, each pair that does not match, and the count of pairs now and then.
func pki(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: pki DIR CERT KEY")
	}
	var pairs, bad int
	var lastSerial string
	for tick := time.NewTicker(*every); ; {
		pair, err := readPair(args[0], args[1], args[2])
		pairs++
		switch {
		case err != nil:
			bad++
			fmt.Printf("mismatch %v\n", err)
		case serialOf(pair) != lastSerial:
			lastSerial = serialOf(pair)
			fmt.Printf("cert serial=%s\n", lastSerial)
		}
		if pairs%1000 == 0 {
			fmt.Printf("pairs n=%d bad=%d\n", pairs, bad)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			fmt.Printf("pairs n=%d bad=%d\n", pairs, bad)
			return nil
		}
	}
}

func serialOf(pair tls.Certificate) string { return pair.Leaf.SerialNumber.Text(16) }

func readPair(dir, cert, key string) (pair tls.Certificate, err error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pair, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	certPEM, err := readAt(fd, cert)
	if err != nil {
		return pair, err
	}
	time.Sleep(*pause)
	keyPEM, err := readAt(fd, key)
	if err != nil {
		return pair, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, filepath.Clean(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("openat %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}
