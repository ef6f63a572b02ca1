// Package volumes is a Docker volume driver: a volume is a secret as a live directory (docs/live.md, "Plain Docker: secrets as volumes").
//
//	docker ──Create, Mount, Unmount──▶ Driver ──▶ source: one poll for all volumes of a path ──▶ the secrets server
//	                                     │            (with the driver's own token: Login)
//	                                     └──▶ live.Feeder ──▶ the file server
//
// A volume's name is a path, or it has the option path. Docker is told a directory on a shared mount, into which the volume's
// live directory is placed while the volume is used.
//
// What holds:
//   - Only paths that the operator allows are read, and nothing that a read would make (a database's credential).
//   - No container gets the token, or waits for the secrets server, once it runs.
//   - A volume is read once before it is mounted: what is wrong is told to whoever starts the container, and then nothing
//     is left behind.
//   - A container that has a volume keeps it, whatever fails: what could not be served is tried again, by the next sweep.
//   - Nothing older is served after something newer, and nothing is called current but what the file server took last.
//   - State is on disk, so that a restart of this process, of Docker or of the machine changes nothing. What is in use is
//     read from what is mounted: Docker forgets its mounts when it crashes.
//   - Docker is never called.
package volumes
