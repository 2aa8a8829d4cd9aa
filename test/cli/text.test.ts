/** The pure parts of the CLI: what leaves it for a person's eyes, and what it reads of durations and addresses. */
import t from 'tap'
import { parseUrl } from '../../coordinator/client/target.ts'
import type { Paint } from '../../coordinator/client/failure.ts'
import { createLineMaker } from '../../coordinator/client/log-reader.ts'
import { blockLines, changedLines } from '../../coordinator/cli/project-follow.ts'
import {
  caretLines,
  fit,
  jsonText,
  parseDuration,
  sizeText,
  spanText,
  tableLines,
  visible,
  visibleBytes,
  visibleText,
  widthOf,
} from '../../coordinator/client/text.ts'
import { shellWord } from '../../protocol/shell-word.ts'
import { rowText } from '../../coordinator/cli/verbs/logs.ts'
import { AT, id, line, machineStatus, order, projectView } from './samples.ts'

const same = (text: string) => text
const plain: Paint = { bad: same, good: same, warn: same, busy: same, strong: same, faint: same }

/** Every C0, C1, bidi, invisible and separating character, alone and in sequences that terminals act on. */
function hostileCorpus(): string[] {
  const codes = [
    ...Array.from({ length: 0x20 }, (_, code) => code).filter((code) => code !== 9),
    ...Array.from({ length: 0x21 }, (_, at) => 0x7f + at),
    ...[0xad, 0x34f, 0x61c, 0x115f, 0x1160, 0x17b4, 0x180e, 0x200b, 0x200c, 0x200d, 0x200e, 0x200f],
    ...[0x2028, 0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064],
    ...[0x2066, 0x2067, 0x2068, 0x2069, 0x206a, 0x206f, 0x3164, 0xfeff, 0xffa0, 0xfff9, 0xfffa, 0xfffb],
    ...[0xe0001, 0xe0020, 0xe007f, 0xe0100, 0xd800, 0xdfff],
  ]
  const sequences = [
    '\x1b[2J\x1b[H',
    '\x1b]0;title\x07',
    '\x1b]52;c;cm0gLXJmIC8=\x07',
    '\x1bP+q544e\x1b\\',
    '\x9b31m',
    '\x1b[6n',
    '50%\r100%',
    'a\x08b',
    '\x1b[?1049h',
    '\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\',
    'user\u202Egnp.exe',
    '\x1bc',
    '\x0e',
    '\x05',
  ]
  const lone = codes.map((code) =>
    code >= 0xd800 && code <= 0xdfff ? String.fromCharCode(code) : String.fromCodePoint(code),
  )
  return [
    ...lone,
    ...lone.map((one) => `Setting up ${one}bash${one} ...`),
    ...lone.map((one) => `\x1b[${one}m`),
    ...sequences,
  ]
}

// What must not reach a terminal, said in another way than in the code: by the code points themselves.
const isHostile = (code: number) =>
  code < 0x20 ||
  (code >= 0x7f && code < 0xa0) ||
  code === 0x61c ||
  (code >= 0x200b && code <= 0x200f) ||
  (code >= 0x2028 && code <= 0x202e) ||
  (code >= 0x2060 && code <= 0x206f) ||
  (code >= 0xd800 && code <= 0xdfff) ||
  [0xad, 0x34f, 0x115f, 0x1160, 0x17b4, 0x180e, 0x3164, 0xfeff, 0xffa0, 0xfff9, 0xfffa, 0xfffb].includes(code) ||
  (code >= 0xe0000 && code <= 0xe0fff)

t.test('[CLI-7] no character of a corpus that a terminal acts on, or that hides or reorders, is left', async (t) => {
  const corpus = hostileCorpus()
  t.ok(corpus.length > 300, `${corpus.length} lines`)
  const hostile = (text: string) => Array.from(text).filter((one) => one !== '\t' && isHostile(one.codePointAt(0) ?? 0))
  const left: string[] = []
  for (const text of corpus) {
    const shown = [visible(text), visibleBytes(Buffer.from(text)), jsonText({ text })]
    const isFine = hostile(text).length > 0 && shown.every((one) => hostile(one).length === 0)
    if (!isFine || JSON.stringify(JSON.parse(jsonText({ text }))) !== JSON.stringify({ text })) {
      left.push(Buffer.from(text, 'utf16le').toString('hex'))
    }
  }
  // Collected, since a hostile line in a test's name would end the report of the test itself.
  t.same(left, [])
})

t.test('[CLI-7] harmless text stays as it is, and what is no UTF-8 is shown byte by byte', async (t) => {
  for (const text of ['plain', 'Umlaut ä, 日本語, ✓', 'a\tb', 'e\u0301']) t.equal(visible(text), text)
  t.equal(visible('a\nb\rc\x1b[0m\u202e'), 'a\\nb\\rc\\x1b[0m\\u{202e}')
  t.equal(visibleText('a\x07\nb'), 'a\\x07\nb')
  t.equal(visibleBytes(Buffer.from([0x61, 0xff, 0xc3, 0xa4, 0xc3, 0x62, 0xe2, 0x82])), 'a\\xffä\\xc3b\\xe2\\x82')
})

t.test('[CLI-2] the caret stands under the place, in long, wide and hostile texts too', async (t) => {
  t.same(caretLines('prod machines: foo outage:x', { start: 26, end: 27 }, 80), [
    'prod machines: foo outage:x',
    '                          ^',
  ])
  t.same(caretLines('a 日本 bad', { start: 5, end: 8 }, 80), ['a 日本 bad', '       ^^^'])
  t.same(caretLines('a\x1b bad', { start: 3, end: 6 }, 80), ['a\\x1b bad', '      ^^^'])
  t.same(caretLines('short', { start: 99, end: 120 }, 80), ['short', '     ^'], 'a place beyond the end')
  const long = `prod machines: ${'machine '.repeat(60)}BAD ${'more '.repeat(20)}`
  const start = long.indexOf('BAD')
  const [text, caret] = caretLines(long, { start, end: start + 3 }, 60)
  t.ok(widthOf(text) <= 60 && widthOf(caret) <= 60)
  t.equal(text.slice(caret.indexOf('^'), caret.lastIndexOf('^') + 1), 'BAD')
})

t.test('[CLI-20] durations are read in every unit and nothing else passes', async (t) => {
  const good = {
    '90s': 90_000,
    '1h': 3_600_000,
    '2d': 172_800_000,
    '15m': 900_000,
    '1h30m': 5_400_000,
    '250ms': 250,
    '1w': 604_800_000,
  }
  for (const [text, spanMs] of Object.entries(good)) t.equal(parseDuration(text), spanMs, text)
  for (const text of ['', '1', 'h', '1.5h', '-1h', '1 h', '1y', '1h ', '9999999999d'])
    t.equal(parseDuration(text), null, text)
  for (const [spanMs, text] of [
    [-5, '0s'],
    [45_900, '45s'],
    [200_000, '3m 20s'],
    [7_500_000, '2h 5m'],
    [273_600_000, '3d 4h'],
    [120_000, '2m'],
  ] as const) {
    t.equal(spanText(spanMs), text)
  }
  for (const [bytes, text] of [
    [0, '0 B'],
    [999, '999 B'],
    [1234, '1.2 kB'],
    [999_600, '1.0 MB'],
    [34_500_000, '35 MB'],
    [2_500_000_000, '2.5 GB'],
  ] as const) {
    t.equal(sizeText(bytes), text)
  }
})

t.test('[CLI-15] what is drawn in place is never wider than the terminal', async (t) => {
  t.equal(fit('abcdef', 6), 'abcdef')
  t.equal(fit('abcdefg', 6), 'abc...')
  t.equal(fit('日本語日本語', 7), '日本...')
  for (const columns of [1, 2, 3, 4, 10, 79]) {
    for (const text of ['x'.repeat(200), '日'.repeat(90), `a\t${'e\u0301'.repeat(99)}`]) {
      t.ok(widthOf(fit(text, columns)) <= columns, `${columns}`)
    }
  }
  t.same(
    tableLines(
      ['A', 'B'],
      [
        ['日本', 'x'],
        ['a', ''],
      ],
    ),
    ['A     B', '日本  x', 'a'],
  )
})

t.test(
  '[CLI-15] the block says state, totals, what goes on since when, what stops it and how to lift that',
  async (t) => {
    const machines = [
      machineStatus('web-1', 'running', { step: 'install', progress: '40%', startedAt: AT - 65_000 }),
      machineStatus('web-2', 'planned'),
    ]
    const stop = {
      kind: 'hold',
      code: 'paused',
      reason: 'paused by ann',
      since: AT - 5000,
      lift: 'smith resume CHG0268453',
      machine: null,
      until: null,
    } as const
    const view = projectView('held', machines, { stop })
    const shown = { tail: ['12:00:00 web-1 install     Setting up \\x1b bash'], lost: 'out of reach', now: AT }
    t.same(
      blockLines(view, shown, plain).map((one) => one.text),
      [
        'Project: CHG0268453 Patch: us-south 2 machines with Build `725`',
        'TOTALS: Pass: 0, Failed NONE, Unstarted NONE',
        'State: held',
        'Now: web-1 install 40% for 1m 5s',
        'Held: paused by ann (for 5s)',
        'Lift: smith resume CHG0268453',
        "out of reach; waiting for it, the work goes on without smith's CLI.",
        '',
        '12:00:00 web-1 install     Setting up \\x1b bash',
      ],
    )
  },
)

t.test('[CLI-15] each change is said once', async (t) => {
  const before = projectView('running', [machineStatus('web-1', 'running', { step: 'fetch' })]).status
  const later = projectView('held', [machineStatus('web-1', 'failed', { cause: 'disk', message: 'no \x1bspace' })], {
    stop: {
      kind: 'hold',
      code: 'failed',
      reason: 'web-1 failed',
      since: AT,
      lift: 'smith retry',
      machine: 'web-1',
      until: null,
    },
  }).status
  t.same(changedLines(null, before), ['CHG0268453 running', 'web-1 running fetch'])
  t.same(changedLines(before, before), [])
  t.same(changedLines(before, later), [
    'CHG0268453 held',
    'web-1 failed (disk): no \\x1bspace',
    'Held: web-1 failed',
    'Lift: smith retry',
  ])
  t.same(changedLines(later, later), [])
  t.same(changedLines(later, before), ['CHG0268453 running', 'web-1 running fetch', 'CHG0268453 goes on'])
})

t.test('[CLI-9] a line that came in several records is put together, whatever was cut in two', async (t) => {
  const maker = createLineMaker(0)
  const of = order('3', 'web-1', 9)
  const bytes = Buffer.from('half ä rest\n')
  const at = bytes.indexOf(0xa4)
  const piece = (n: number, part: Buffer) =>
    ({ n, at: AT, type: 'line', step: 'install', offset: 0, base64: part.toString('base64') }) as const
  t.same(maker.take(of, piece(1, bytes.subarray(0, at))), [])
  const [whole = ''] = maker.take(of, piece(2, bytes.subarray(at)))
  t.match(whole, /web-1 install +half ä rest$/)
  t.same(maker.take(of, line(3, 'no end')), [])
  const texts = maker.take(of, { n: 4, at: AT, type: 'hole', offset: 6, bytes: 12, reason: 'power-cut' })
  t.match(texts, [/no end$/, /== 12 bytes are missing here \(power cut\)$/])
  t.same(maker.flush(), [])
})

t.test('[CLI-10] a row is one line, with what belongs to each fact', async (t) => {
  const facts = [
    {
      fact: 'orderFailed',
      change: 'CHG0000001',
      machine: 'web-1',
      order: id('3'),
      cause: 'disk',
      reason: 'no\nspace \x1b[2J',
    },
    { fact: 'lineFreed', line: 'prod-dal10', project: id('4') },
  ] as const
  const text = rowText({ rev: 42, at: AT, actor: 'smith', facts: facts.map((fact) => ({ ...fact })) })
  t.match(
    text,
    /^42 2023-11-1\d \d\d:\d\d:\d\d smith orderFailed change=CHG0000001 machine=web-1 order=3+ cause=disk reason="no\\nspace \\x1b\[2J" \| lineFreed line=prod-dal10$/,
  )
})

t.test('[CLI-12] an address is https with a host; without a port it is 7600', async (t) => {
  t.same(parseUrl('https://smith.example.org'), { host: 'smith.example.org', port: 7600 })
  t.same(parseUrl('https://smith.example.org:443/'), { host: 'smith.example.org', port: 443 })
  t.same(parseUrl('https://[::1]:7601'), { host: '::1', port: 7601 })
  for (const text of ['http://x', 'https://x/api', 'https://u:p@x', 'x:7600', '', 'https://x?y'])
    t.equal(parseUrl(text), null, text)
  t.equal(shellWord("it's $HOME"), `'it'\\''s $HOME'`)
  t.equal(shellWord('/srv/a-b_c.d'), '/srv/a-b_c.d')
})
