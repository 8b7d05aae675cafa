#!/bin/sh
# namenode.sh FOLDER: format the NameNode's folder once, then run it.
set -eu
[ -d "$1/current" ] || hdfs namenode -format -nonInteractive
exec hdfs namenode
