package launcher

// The launcher program is built, for the architecture at hand, before this package can be:
//
//go:generate env CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o launcher_$GOARCH.bin ./launch
//go:generate sh -c "sed s/ARCH/$GOARCH/ embed.go.in > embed_$GOARCH.go"

// binary is the launcher. The name comes from a generated file, so that a build without it fails
// with an instruction.
var binary = run_go_generate_driver_launcher_first
