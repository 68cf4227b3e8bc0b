"""work.py: what scripts do: loops, dictionaries, strings, JSON, big integers, floats, objects."""
import json


def loop(n):
    a = 1
    for i in range(n):
        a = (a * 31 + i) & 0xffffffff if a & 1 else (a >> 1) ^ i
    return a


def words(n):
    count = {}
    for i in range(n):
        word = "word%d" % (i * 7919 % 1009)
        count[word] = count.get(word, 0) + 1
    return sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))[:5]


def documents(n):
    value = [{"id": i, "name": f"item {i}", "tags": ["a", "b", str(i)], "price": i / 8} for i in range(n)]
    text = json.dumps(value, indent=1)
    return len(text), sum(item["price"] for item in json.loads(text))


def power(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return len(str(a)), pow(3, a, (1 << 521) - 1)


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def step(self):
        self.x, self.y = self.x * 0.6 - self.y * 0.8, self.x * 0.8 + self.y * 0.6


def points(n):
    p = [Point(float(i), 1.0) for i in range(20)]
    for _ in range(n):
        for q in p:
            q.step()
    return round(sum(q.x + q.y for q in p), 6)


print(loop(1500000), words(150000), documents(6000), power(8000), points(12000))
