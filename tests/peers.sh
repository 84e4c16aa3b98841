#!/bin/sh
# The peers: other people's programs that the tests and the benches run beside Bonded, and the
# tools of `make test` that are not part of a Rust toolchain. Each is pinned, built from its
# sources and kept in the user's cache folder under its version, so that every clone on this
# machine shares it and a new pin never disturbs an old one.
#
#   tests/peers.sh [install] [NAME…]   install what is missing (all, or the named ones)
#   tests/peers.sh path                every folder of installed peers, joined as PATH wants it
#   tests/peers.sh list                one line a peer: name, version, present|missing, origin
#
#   BONDED_PEERS=require   exit with 1 when a peer is missing afterwards (continuous integration)
#   BONDED_PEERS=skip      install nothing: use what is there
#
# Standard output has the results, one line a peer; what the builds print goes to a log file.

set -u

mode=${BONDED_PEERS:-}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bonded/peers

# name, version, how it is built, module or package, package path of the program in the module.
#   go-install  `go install` of the program's path
#   go-module   the same from a small module that requires it: these paths also hold a module of
#               their own in a later version, and `go install` insists on looking for that one
#   cargo       `cargo install --locked`
#   debian      a package of the distribution, at whatever version it has: the older clients that
#               are still in use are peers because they are old
#   unpacked    packages of the distribution that are unpacked into the cache and not installed:
#               a docker engine would begin to run, and change the machine's network
peers='
cargo-deny  0.20.2   cargo       cargo-deny                             -
crane       v0.22.1  go-install  github.com/google/go-containerregistry /cmd/crane
regctl      v0.11.7  go-install  github.com/regclient/regclient         /cmd/regctl
oras        v1.2.3   go-module   oras.land/oras                         /cmd/oras
olareg      v0.1.2   go-module   github.com/olareg/olareg               /cmd/olareg
registry    v3.1.2   go-install  github.com/distribution/distribution/v3 /cmd/registry
syft        v1.52.0  go-install  github.com/anchore/syft                /cmd/syft
cosign      v3.1.3   go-install  github.com/sigstore/cosign/v3          /cmd/cosign
cosign2     v2.6.5   go-install  github.com/sigstore/cosign/v2          /cmd/cosign
helm        v3.21.4  go-install  helm.sh/helm/v3                        /cmd/helm
buildx      v0.38.2  go-install  github.com/docker/buildx               /cmd/buildx
dockerd     debian   unpacked    docker.io,containerd,runc              -
skopeo      -        debian      skopeo                                 -
umoci       -        debian      umoci                                  -
buildah     -        debian      buildah                                -
podman      -        debian      podman                                 -
'

have() { command -v "$1" >/dev/null 2>&1; }

each_peer() { # FUNCTION: calls it with the five fields of every peer
    printf '%s\n' "$peers" | sed '/^[[:space:]]*$/d' >"$table"
    while read -r name version kind module program <&3; do
        "$1" "$name" "$version" "$kind" "$module" "$program"
    done 3<"$table"
}

present() { # name version kind
    if [ "$3" = debian ]; then have "$1"; else [ -x "$cache/$1-$2/bin/$1" ]; fi
}

origin() { # kind: how this peer comes, for people
    case $1 in
    go-*) echo "built with Go" ;;
    cargo) echo "built with cargo" ;;
    debian) echo "Debian's package" ;;
    unpacked) echo "Debian's packages, unpacked" ;;
    esac
}

shown_version() { # name version kind
    if [ "$3" != debian ]; then
        echo "$2"
    else
        found=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null)
        echo "${found:--}"
    fi
}

# What stops this peer from being installed here; nothing when nothing does.
obstacle() { # name kind
    case $2 in
    go-*)
        have go || echo "needs Go 1.26 or newer on PATH" ;;
    cargo)
        have cargo || echo "needs cargo on PATH" ;;
    unpacked)
        { have apt-get && have dpkg; } || echo "$1 is unpacked from Debian's packages, and apt-get is not here" ;;
    debian)
        if ! have apt-get; then
            echo "install $1 with this system's package manager"
        elif [ "$(id -u)" != 0 ]; then
            echo "run: sudo apt-get install --no-install-recommends $1"
        fi ;;
    esac
}

# Builds into the folder $work/out, whose name becomes final with one rename.
build() { # name version kind module program
    mkdir -p "$work/out/bin" || return 1
    case $3 in
    go-install)
        GOBIN="$work/out/bin" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$4$5@$2" || return 1
        # Two versions of one program are two peers, each by a name of its own.
        [ "${5##*/}" = "$1" ] || mv "$work/out/bin/${5##*/}" "$work/out/bin/$1" ;;
    go-module)
        mkdir -p "$work/module" &&
            cd "$work/module" &&
            go mod init bonded-peer &&
            go get "$4@$2" &&
            CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags '-s -w' -o "$work/out/bin/$1" "$4$5" ;;
    cargo)
        # A tool that runs for a second a day is not worth an optimised build of ten minutes.
        CARGO_TARGET_DIR="$work/target" CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --locked --debug --no-track --version "$2" --root "$work/out" "$4" ;;
    unpacked)
        mkdir -p "$work/packages" &&
            cd "$work/packages" || return 1
        packages=$(echo "$4" | tr , ' ')
        # shellcheck disable=SC2086 # the packages are words
        apt-get -q download $packages ||
            { rm -f ./*.deb && update_lists && apt-get -q download $packages; } || return 1
        for package in *.deb; do dpkg -x "$package" "$work/root" || return 1; done
        find "$work/root/usr" -path '*bin/*' -type f -exec mv {} "$work/out/bin/" \;
        # The client may be a package of its own elsewhere.
        [ -x "$work/out/bin/docker" ] ;;
    esac
}

install_built() { # name version kind module program
    work=$(mktemp -d "$cache/.building-$1.XXXXXX") || return 1
    (build "$@") </dev/null >>"$log" 2>&1
    status=$?
    if [ $status = 0 ] && [ -x "$work/out/bin/$1" ]; then
        # Refused when another run was first, and then its result is as good as ours.
        mv -T "$work/out" "$cache/$1-$2" 2>>"$log" || status=$?
        present "$1" "$2" "$3" && status=0
    fi
    # Go writes its module cache read-only; nothing of that is in here, but a half-done tree may be.
    chmod -R u+w "$work" 2>/dev/null
    rm -rf "$work"
    work=
    return $status
}

# The lists of packages may be absent or old.
update_lists() {
    apt-get -q update </dev/null >>"$log" 2>&1
}

install_debian() { # name
    export DEBIAN_FRONTEND=noninteractive
    apt_options='-y -q --no-install-recommends -o DPkg::Lock::Timeout=300'
    # shellcheck disable=SC2086 # the options are words
    apt-get $apt_options install "$1" </dev/null >>"$log" 2>&1 && return 0
    update_lists
    # shellcheck disable=SC2086
    apt-get $apt_options install "$1" </dev/null >>"$log" 2>&1
}

install_peer() { # name version kind module program
    wanted "$1" || return 0
    label="$1 $2"
    [ "$2" = - ] && label=$1
    if present "$1" "$2" "$3"; then
        echo "peer $label: present"
        return 0
    fi
    if [ "$mode" = skip ]; then
        echo "peer $label: missing (BONDED_PEERS=skip)"
        return 0
    fi
    reason=$(obstacle "$1" "$3")
    if [ -z "$reason" ]; then
        log="$cache/logs/$1-$2.log"
        : >"$log"
        began=$(date +%s)
        if [ "$3" = debian ]; then install_debian "$1"; else install_built "$@"; fi
        if present "$1" "$2" "$3"; then
            echo "peer $label: installed in $(($(date +%s) - began)) s"
            return 0
        fi
        reason="installing it failed, see $log"
    fi
    echo "peer $label: MISSING: $reason"
    missing="$missing $1"
}

list_peer() { # name version kind module program
    if present "$1" "$2" "$3"; then state=present; else state=missing; fi
    printf '%-11s %-24s %-8s %s\n' "$1" "$(shown_version "$1" "$2" "$3")" "$state" "$(origin "$3")"
}

path_of_peer() { # name version kind
    if [ "$3" != debian ] && present "$1" "$2" "$3"; then
        joined="${joined:+$joined:}$cache/$1-$2/bin"
    fi
}

wanted() { # name: is it asked for? Everything is when nothing is named.
    [ -z "$names" ] && return 0
    case " $names " in *" $1 "*) return 0 ;; esac
    return 1
}

work=
table=$(mktemp) || exit 1
cleanup() {
    rm -f "$table"
    if [ -n "$work" ]; then chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

command=${1:-install}
[ $# -gt 0 ] && shift
names=$*

case $command in
install)
    for asked in $names; do
        if ! printf '%s\n' "$peers" | grep -q "^$asked "; then
            echo "tests/peers.sh: no peer is called $asked; see: tests/peers.sh list" >&2
            exit 2
        fi
    done
    mkdir -p "$cache/logs" || exit 1
    missing=
    each_peer install_peer
    if [ -n "$missing" ] && [ "$mode" = require ]; then
        echo "peers: missing, and BONDED_PEERS=require:$missing" >&2
        exit 1
    fi
    ;;
path)
    joined=
    each_peer path_of_peer
    [ -n "$joined" ] && printf '%s\n' "$joined"
    exit 0
    ;;
list)
    each_peer list_peer
    ;;
*)
    echo "usage: tests/peers.sh [install [NAME…] | path | list]" >&2
    exit 2
    ;;
esac
