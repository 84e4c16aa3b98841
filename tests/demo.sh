#!/bin/sh
# The main job, end to end, on real input: keep an image and a program under seal, prove them,
# hand them back, and catch a flipped bit. Everything happens in a temporary folder.
#
# `bond` and `bonded` must be on PATH; `make demo` builds them and sees to that.

set -eu

bond=$(command -v bond)
image=$(cd "$(dirname "$0")/fixtures/hello-image" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/bonded-demo.XXXXXX")
daemon=

finish() {
    status=$?
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    [ "$status" = 0 ] || { echo; echo "The demo failed. The daemon said:"; cat "$work/log" 2>/dev/null; } >&2
    chmod -R u+w "$work" 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m')
else bold='' dim='' plain=''; fi

n=0
say() { n=$((n + 1)); printf '\n%s%d. %s%s\n' "$bold" "$n" "$1" "$plain"; }
run() {
    printf '%s   $ %s%s\n' "$dim" "$*" "$plain"
    code=0
    "$@" >"$work/run" 2>&1 || code=$?
    sed 's/^/   /' "$work/run"
    return "$code"
}

BOND_SOCKET=$work/bonded.sock
export BOND_SOCKET

say "A daemon on an empty store. It owns the bytes; everybody else asks over its socket."
printf '%s   $ bonded --store %s/store --socket %s%s\n' "$dim" "$work" "$BOND_SOCKET" "$plain"
bonded --store "$work/store" --socket "$BOND_SOCKET" 2>"$work/log" &
daemon=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -S "$BOND_SOCKET" ] && break
    sleep 0.2
done

say "Put a real image (an OCI layout that buildah wrote) and a real program (bond itself)."
run bond put "oci:$image" --name demo/hello:1
digest=$(bond put "oci:$image" --quiet | head -n 1)
run bond put "file:$bond" --name demo/bond:1
echo "   Each answer is the artifact's digest: its identity from here to the release."

say "The handle: where the store keeps the bytes. Inert data for the manifest of a pipeline."
run bond put "oci:$image" --format json

say "Resolve: every byte is hashed, and only then does a tool get the path to read in place."
run bond resolve demo/hello:1
run bond tree demo/hello:1
run bond ls

say "Hand it back, and compare byte for byte."
run bond get demo/hello:1 "oci:$work/back"
diff -r "$image/blobs" "$work/back/blobs"
bond get demo/bond:1 --stdout 2>/dev/null | cmp - "$bond"
echo "   The image's blobs and the program are the same, every byte."

say "Flip one bit of a layer inside the store, as a bad disk would."
layer=$work/store/blobs/sha256/$(ls -S "$image/blobs/sha256" | head -n 1)
chmod u+w "$layer"
byte=$(od -An -tu1 -j5000 -N1 "$layer" | tr -d ' ')
# shellcheck disable=SC2059
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$layer" bs=1 seek=5000 conv=notrunc 2>/dev/null
chmod u-w "$layer"
echo "   $(basename "$layer"), byte 5000: $byte became $((byte ^ 1))"

say "It is refused: no path, no bytes, a name for what is wrong, and a copy in quarantine."
if bond resolve demo/hello:1 >"$work/out" 2>"$work/err"; then
    echo "A damaged artifact was handed out." >&2
    exit 1
fi
sed 's/^/   /' "$work/err"
[ ! -s "$work/out" ] || { echo "A damaged artifact was handed out." >&2; exit 1; }

say "Put the good bytes again: they are compared, and the damage is healed."
run bond put "oci:$image"
run bond verify --all
run bond doctor

say "Stop the daemon. What it kept is an ordinary OCI layout, for whatever tool comes next."
path=$(bond resolve "$digest" | head -n 1)
kill "$daemon"
wait "$daemon" || true
daemon=
if command -v skopeo >/dev/null 2>&1; then
    run skopeo inspect "oci:$path"
else
    run cat "$path/index.json"
    echo
    echo "   (with skopeo on PATH, this step lets it inspect the layout)"
fi

printf '\n%sThat was the whole job: taken in once, proved at every hand-over.%s\n' "$bold" "$plain"
