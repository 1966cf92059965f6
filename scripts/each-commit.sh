#!/usr/bin/env bash
# Does each commit build and pass `make check`? Tries them oldest first, in a worktree of its own, so the tree you work in
# stays as it is (like git rebase -x, without the rebase). Stops at the first that does not.
#
#   scripts/each-commit.sh [BASE]      commits after BASE; default: those not in the upstream branch, or all
#   CHECK='make' scripts/each-commit.sh BASE
set -euo pipefail
cd "$(dirname "$0")/.."

check=${CHECK:-make && make check}
if [ $# -gt 0 ]; then
	range=$1..HEAD
elif git rev-parse -q --verify '@{upstream}' >/dev/null 2>&1; then
	range='@{upstream}..HEAD'
else
	range=HEAD
fi
commits=$(git rev-list --reverse "$range")
[ -n "$commits" ] || { echo "each-commit: nothing in $range"; exit 0; }

tree=$(mktemp -d)
trap 'git worktree remove --force "$tree" >/dev/null 2>&1; rm -rf "$tree"' EXIT
git worktree add --quiet --detach "$tree" HEAD
for c in $commits; do
	git -C "$tree" checkout --quiet --detach "$c"
	if ! (cd "$tree" && eval "$check") >"$tree.log" 2>&1; then
		echo "FAILED  $(git log -1 --format='%h %s' "$c")"
		tail -n 40 "$tree.log" | sed 's/^/  | /'
		rm -f "$tree.log"
		exit 1
	fi
	echo "ok      $(git log -1 --format='%h %s' "$c")"
done
rm -f "$tree.log"
