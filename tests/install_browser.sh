#!/bin/sh
# Makes sure that there is a Chromium for the studio's tests: the machine's own, Debian's, or Playwright's.
set -eu
for name in "${STORYRL_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && exit 0
done
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null 2>&1 && $sudo apt-get update -qq && $sudo apt-get install -y -qq chromium >/dev/null; then
    exit 0
fi
echo "no Chromium here and none could be installed; install one or set STORYRL_CHROMIUM=/path/to/chromium" >&2
exit 1
