# work.sh: 500 short commands, as a configure script starts them.
i=0
while [ $i -lt 100 ]; do
    true=$(/usr/bin/expr $i + 1)
    /usr/bin/test "$true" -gt $i || exit 1
    /usr/bin/basename "/some/where/$i.c" .c
    echo "line $i" | /usr/bin/cut -d' ' -f2
    /usr/bin/head -c 20 /bench/text >/dev/null
    i=$true
done
