/** What people type and Slack makes of it, and what the bot writes: the reference's section 1.8, with its own strings. */
import t from 'tap'
import { codeBlock, cutEnd, escaped, pieces, withButtons } from '../../coordinator/chat/markup.ts'
import { plain, read, steered } from '../../coordinator/chat/words.ts'
import { machineWordsOf } from '../../coordinator/client/locate.ts'
import { blocksProblem } from './standin-blocks.ts'

t.test('[BOT-30] links, odd spaces, curly quotes and entities are what the person typed', async (t) => {
  t.equal(
    plain(
      'prod machines: <http://host1.example.com|host1.example.com>\u00a0<http://host2.example.com|host2.example.com> outage:0',
    ),
    'prod machines: host1.example.com host2.example.com outage:0',
  )
  t.equal(plain('<http://host1.example.com>'), 'host1.example.com')
  t.equal(plain('<https://host1.example.com/>'), 'host1.example.com')
  t.equal(plain('<mailto:a@b.example|a@b.example>'), 'a@b.example')
  t.equal(plain('\u200bprod\u2003machines:\u202fa\ufeff'), 'prod machines: a')
  t.equal(plain('\u201cit\u2019s\u201d'), '"it\'s"')
  t.equal(plain('a &lt;b&gt; &amp;amp; c'), 'a <b> &amp; c')
  t.equal(plain('\u2014reason x\u2013y'), '--reason x-y')
  t.equal(plain('web-1\n  web-2'), 'web-1 web-2')
})

t.test(
  '[BOT-30] a command is found behind a mention, the name of the bot, quotes, or with a space for its hyphen',
  async (t) => {
    const expected = { verb: 'status', rest: 'CHG0268453', instance: null }
    for (const text of [
      'smith-status CHG0268453',
      '<@U0SMITH> smith-status CHG0268453',
      '<@U0SMITH|igorina>: smith-status CHG0268453',
      'igorina, smith-status CHG0268453',
      '@Igorina smith-status CHG0268453',
      '`smith-status CHG0268453`',
      'Smith-Status\u00a0CHG0268453',
      'smith status CHG0268453',
      'smith\u2011status CHG0268453',
    ])
      t.same(read(text, 'igorina'), expected, text)
    t.same(read('smith-patch instance:dev prod machines: a', 'x'), {
      verb: 'patch',
      rest: 'prod machines: a',
      instance: 'dev',
    })
    t.same(read('smith-statsu x', 'x'), { verb: null, word: 'smith-statsu', nearest: 'smith-status' })
    t.same(read('unbelievable!', 'x'), { verb: null, word: 'unbelievable!', nearest: null })
    t.same(read('smith approve CHG0268453', 'x'), { verb: 'elsewhere', word: 'approve' })
    t.same(read('', 'x'), { verb: null, word: '', nearest: null })
  },
)

t.test('[BOT-30] the command behind `Lift:` is understood as it stands', async (t) => {
  const skip = "CHG0268453 web-1 --reason 'its disk is broken'"
  t.same(steered(skip, true), { change: 'CHG0268453', machine: 'web-1', reason: 'its disk is broken' })
  t.same(steered('chg0268453', false), { change: 'CHG0268453', machine: null, reason: '' })
  t.same(steered('CHG0268453 wrong week', false), { change: 'CHG0268453', machine: null, reason: 'wrong week' })
  t.equal(steered('CHG1', false), null)
})

t.test('[BOT-31] what is written is escaped and cut to the sizes of Slack', async (t) => {
  t.equal(escaped('<!channel> & <@U0ANA> "x"'), '&lt;!channel&gt; &amp; &lt;@U0ANA&gt; "x"')
  t.equal(escaped('\x1b[31m\u202e'), '\\x1b[31m\\u{202e}')
  t.equal(codeBlock(['a ``` b']), "```\na ''' b\n```")
  for (const size of [0, 100, 5000, 100_000]) {
    const text = `${'x'.repeat(79)}\n`.repeat(size / 80)
    t.ok(codeBlock([text]).length <= 3800)
    t.ok(cutEnd('&amp;'.repeat(size)).length <= 3800)
    t.notMatch(cutEnd('&amp;'.repeat(size)), /&(?!amp;)/, 'no entity is cut in two')
    t.ok(pieces(text).every((piece) => piece.length <= 3800))
    t.equal(pieces(text).join('\n').length >= text.length - 1, true, 'nothing is lost in pieces')
    const long = '<'.repeat(size)
    const confirm = { title: long, text: long, yes: long }
    const content = withButtons(escaped(long) || 'x', [
      { action: 'a', value: 'v', label: `x${long}`, ...(size === 0 ? {} : { confirm }) },
    ])
    t.equal(blocksProblem(content.blocks ?? []), null)
  }
})

t.test('[MUL-2] the machines of a request are found in any order of its keys', async (t) => {
  t.same(machineWordsOf('prod machines: a b* outage:0 10.0.0.1'), ['a', 'b*'])
  t.same(machineWordsOf('prod outage:0 machines:a 2001:db8::1 except: c MACHINES: d'), ['a', '2001:db8::1', 'd'])
  t.same(machineWordsOf('machines: fe80::1 cafe::'), ['fe80::1', 'cafe::'])
  t.same(machineWordsOf('prod'), [])
})
