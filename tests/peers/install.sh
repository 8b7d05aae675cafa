#!/bin/sh
# Installs the programs the tests talk to (Debian 12), or names those that are missing.
set -eu
missing=""
need() { # program package
    PATH="$PATH:/usr/sbin:$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need storescu dcmtk
need Orthanc orthanc
need redis-server redis-server
need dciodvfy dicom3tools
need nginx nginx-light
need javac openjdk-17-jdk-headless
need mvn maven
need initdb postgresql
need docker-compose docker-compose
need krb5kdc krb5-kdc
need kadmin.local krb5-admin-server
need kinit krb5-user
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed, their tests are skipped:$missing"
fi
