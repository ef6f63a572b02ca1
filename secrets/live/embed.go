package live

// The file server's program is built, for the architecture at hand, before this package can be:
//
//go:generate env CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o server_$GOARCH.bin ./server/program
//go:generate sh -c "sed s/ARCH/$GOARCH/ embed.go.in > embed_$GOARCH.go"

// program is the file server. The name comes from a generated file, so that a build without it fails with an
// instruction.
var program = run_go_generate_secrets_live_first
