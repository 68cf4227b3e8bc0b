// work.js: what a JavaScript engine compiles at run time: calls, objects, strings, maps, typed arrays, regular
// expressions, closures. The sum must not depend on the machine.
'use strict'
let sum = 0
const add = n => { sum = (sum * 31 + n) % 4294967291 }

const fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2)
add(fib(27))

const sieve = new Uint8Array(400000)
for (let i = 2; i < sieve.length; i++)
  if (!sieve[i]) { add(i % 7); for (let k = i * 2; k < sieve.length; k += i) sieve[k] = 1 }

class Shape { area() { return 0 } }
class Square extends Shape { constructor(a) { super(); this.a = a } area() { return this.a * this.a } }
class Circle extends Shape { constructor(r) { super(); this.r = r } area() { return 3 * this.r * this.r } }
for (let round = 0; round < 20; round++) {
  const shapes = Array.from({ length: 5000 }, (_, i) => i % 3 ? new Square(i % 17) : new Circle(i % 13))
  add(shapes.map(s => s.area()).filter(a => a % 2).reduce((a, b) => a + b, 0))
}

const words = new Map()
let text = ''
for (let i = 0; i < 20000; i++) text += 'word' + (i * 7919 % 1013) + ' '
for (const w of text.split(' ')) words.set(w, (words.get(w) || 0) + 1)
add(words.size)
add((text.match(/d1[0-9]+ /g) || []).length)
add(JSON.stringify(JSON.parse(JSON.stringify([...words]))).length)

// Code made at run time, again and again.
for (let i = 0; i < 300; i++) add(new Function('x', `let s = 0; for (let k = 0; k < 50; k++) s += x * ${i} + k; return s`)(i))

const matrix = n => Array.from({ length: n }, (_, i) => Float64Array.from({ length: n }, (_, k) => (i * k) % 10))
const a = matrix(120), b = matrix(120)
let trace = 0
for (let i = 0; i < 120; i++) for (let k = 0; k < 120; k++) { let s = 0; for (let m = 0; m < 120; m++) s += a[i][m] * b[m][k]; if (i === k) trace += s }
add(trace)
console.log(sum)
