#!/bin/sh
# Set a Debian 12 machine up as the gateway, from the checkout this script is in: what scripts/setup does for any user,
# the two programs in the PATH, and the systemd units. The units are installed, not started: docs/vm.md says how.
# Usage: sudo vagrant/provision.sh
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "provision: installs packages and systemd units: run it with sudo" >&2; exit 1; }

# With the wheels of vagrant/build-wheels at hand no Python index is needed.
[ ! -e vagrant/wheels/.stamp ] || export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/vagrant/wheels"
scripts/setup demo

for program in interceptor sidecar-setup; do ln -sf "$PWD/.venv/bin/$program" "/usr/local/bin/$program"; done
printf '#!/bin/sh\nexec %s/scripts/demo "$@"\n' "$PWD" > /usr/local/bin/interceptor-demo
chmod 755 /usr/local/bin/interceptor-demo

# The uid that the rules know as the proxy's.
id interceptor > /dev/null 2>&1 || useradd --system --uid 1337 --user-group --no-create-home --shell /usr/sbin/nologin interceptor
install -d /etc/interceptor /usr/local/lib/interceptor
install -m 755 vagrant/systemd/wait-ready /usr/local/lib/interceptor/
install -m 644 vagrant/systemd/*.service /etc/systemd/system/
for file in vagrant/config/*.yaml; do
  [ -e "/etc/interceptor/${file##*/}" ] || install -m 644 "$file" /etc/interceptor/
done
systemctl daemon-reload
