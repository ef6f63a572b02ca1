// Reader is the program that the tests of live directories run in containers.
//
//	reader mmap|sendfile|splice FILE      the file's content, read in that way
//	reader rate N OUT FILE...             read the files in turn, N times a second, and write Stats to OUT
//	reader pairs N OUT DIR                read DIR/user and DIR/password, N times a second, and write Stats to OUT
//	reader lookups N DIR                  look up N made-up names
//	reader change DIR                     try to change DIR/user and DIR in all ways, and print what comes of each
//	reader hold DIR                       go to DIR, open and map DIR/user, print "held", and keep all that
//	reader handle DIR NAME...             open the root of DIR's file system by its handle and NAME/user there, and print what comes of it
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stats are what has been read up to now. Times are Unix milliseconds.
type Stats struct {
	Reads      int
	Errors     int
	FirstError string
	LastError  string
	LastFailed int64
	Mismatches int
	Slowest    time.Duration
	Took       map[int]int      // how many reads took up to so many microseconds
	Seen       map[string]int64 // each value, and when it was first read
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: see the source")
	}
	switch args[0] {
	case "mmap", "sendfile", "splice":
		return one(args[0], args[1])
	case "rate":
		i := 0
		return loop(args[1:], func(s *Stats) {
			i++
			s.read(args[3+i%(len(args)-3)])
		})
	case "pairs":
		return loop(args[1:], func(s *Stats) {
			user, ok := s.read(filepath.Join(args[3], "user"))
			password, ok2 := s.read(filepath.Join(args[3], "password"))
			if ok && ok2 && user != password {
				s.Mismatches++
			}
		})
	case "lookups":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return lookups(n, args[2])
	case "change":
		change(args[1])
		return nil
	case "hold":
		return hold(args[1])
	case "handle":
		byHandle(args[1], args[2:])
		return nil
	}
	return fmt.Errorf("unknown: %s", args[0])
}

// loop reads so often until it is told to stop, and writes the file now and then.
func loop(args []string, read func(*Stats)) error {
	rate, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	every, out := time.Second/time.Duration(rate), args[1]
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	s := Stats{Took: map[int]int{}, Seen: map[string]int64{}}
	next, wrote := time.Now(), time.Time{}
	for {
		select {
		case <-stop:
			return s.write(out)
		default:
		}
		read(&s)
		if time.Since(wrote) > 100*time.Millisecond {
			wrote = time.Now()
			if err := s.write(out); err != nil {
				return err
			}
		}
		if next = next.Add(every); time.Since(next) > time.Second { // it is behind
			next = time.Now()
		}
		time.Sleep(time.Until(next))
	}
}

func (s *Stats) write(out string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

func (s *Stats) read(path string) (string, bool) {
	begin := time.Now()
	got, err := readFile(path)
	took := time.Since(begin)
	s.Slowest = max(s.Slowest, took)
	s.Took[roundUp(int(took.Microseconds()))]++
	s.Reads++
	if err != nil {
		s.Errors++
		s.LastError, s.LastFailed = err.Error(), time.Now().UnixMilli()
		if s.FirstError == "" {
			s.FirstError = err.Error()
		}
		return "", false
	}
	if _, ok := s.Seen[got]; !ok && len(s.Seen) < 10_000 {
		s.Seen[got] = time.Now().UnixMilli()
	}
	return got, true
}

// roundUp leaves the three leading bits, so that there are few numbers.
func roundUp(n int) int {
	if low := bits.Len(uint(n)) - 3; low > 0 {
		n = (n>>low + 1) << low
	}
	return n
}

// readFile is without the runtime's poller.
func readFile(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return string(all), err
		}
		all = append(all, buf[:n]...)
	}
}

func one(how, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := int(info.Size())
	switch how {
	case "mmap":
		if size == 0 {
			return nil
		}
		b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(b)
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() { _, err := io.Copy(os.Stdout, r); copied <- err }()
	for size > 0 {
		var n int
		if how == "sendfile" {
			n, err = unix.Sendfile(int(w.Fd()), int(f.Fd()), nil, size)
		} else {
			var n64 int64
			n64, err = unix.Splice(int(f.Fd()), nil, int(w.Fd()), nil, size, 0)
			n = int(n64)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s: an end with %d bytes to come", how, size)
		}
		size -= n
	}
	_ = w.Close()
	return <-copied
}

// lookups tries names that somebody who does not know better would.
func lookups(n int, dir string) error {
	var st unix.Stat_t
	for i := range n {
		name := strconv.FormatInt(int64(i)*2654435761, 36)
		switch i % 8 {
		case 1:
			name = strings.Repeat("\xff\x01"+name, 20)
		case 2:
			name = strings.Repeat("n", 255)
		case 3:
			name = strings.Repeat("n", 256)
		case 4:
			name = "../secrets/" + name
		case 5:
			name = "volumes:v-" + name
		case 6:
			name = "password/" + name
		}
		if err := unix.Stat(dir+"/"+name, &st); err == nil {
			return fmt.Errorf("%q is there", name)
		} else if err != unix.ENOENT && err != unix.ENAMETOOLONG && err != unix.ENOTDIR {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	fmt.Println("nothing")
	return nil
}

// change tries all that would change something, and prints how each ends.
func change(dir string) {
	user, other := filepath.Join(dir, "user"), filepath.Join(dir, "other")
	times := []unix.Timespec{{}, {}}
	for what, err := range map[string]error{
		"write":    opens(user, unix.O_WRONLY),
		"append":   opens(user, unix.O_WRONLY|unix.O_APPEND),
		"truncate": unix.Truncate(user, 0),
		"create":   opens(other, unix.O_WRONLY|unix.O_CREAT),
		"unlink":   unix.Unlink(user),
		"rename":   unix.Rename(user, other),
		"chmod":    unix.Chmod(user, 0o777),
		"chown":    unix.Chown(user, os.Getuid(), os.Getgid()),
		"utimes":   unix.UtimesNanoAt(unix.AT_FDCWD, user, times, 0),
		"mkdir":    unix.Mkdir(other, 0o700),
		"rmdir":    unix.Rmdir(user),
		"link":     unix.Link(user, other),
		"symlink":  unix.Symlink(user, other),
		"mknod":    unix.Mknod(other, unix.S_IFIFO|0o600, 0),
		"setxattr": unix.Setxattr(user, "user.x", []byte("y"), 0),
	} {
		fmt.Printf("%s: %v\n", what, err)
	}
}

func opens(path string, flags int) error {
	fd, err := unix.Open(path, flags, 0o600)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// hold keeps a directory as its own, and a file of it open and in its memory, until it is killed.
func hold(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	fd, err := unix.Open("user", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	mapped, err := unix.Mmap(fd, 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	fmt.Println("held", len(mapped))
	signal.Ignore(syscall.SIGTERM)
	select {}
}

// byHandle opens the root of a FUSE file system, whose number is 1 in all of them, and files below it.
func byHandle(dir string, names []string) {
	mount, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unix.Close(mount)
	handle := unix.NewFileHandle(0x81, []byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	root, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY|unix.O_DIRECTORY)
	fmt.Println("by handle:", err)
	if err != nil {
		return
	}
	defer unix.Close(root)
	for _, name := range names {
		fd, err := unix.Openat(root, name+"/user", unix.O_RDONLY, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		fmt.Println(name+":", err)
	}
}
