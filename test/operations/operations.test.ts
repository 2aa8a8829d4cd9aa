/** The runbook and its tests can't drift apart: every section has its tests, and they type what it says and nothing else. */
import t from 'tap'
import { sectionsOf } from './document.ts'
import { PAGES } from './pages.ts'
import { SECTIONS, openRunbook, patternOf } from './runbook.ts'

t.test('[OPS-3] every section that tells people to type or to see something has a file of tests', (t) => {
  const tested = Object.values(PAGES).flat()
  t.same(tested.toSorted(), SECTIONS.map(({ heading }) => heading).toSorted())
  t.end()
})

t.test('[OPS-3] what a section says is found in every form in which it is written', (t) => {
  const text = `# Runbook

## First
Type \`smith retry CHG1
web-2\`, or \`smith skip\`, which \`--reason R\` goes with. Not \`smith\` alone, nor \`apt-get\`.

See: \`Held: it
... failed\`, and \`the words of it\`.

    smith user add igorina --role bot    # once
    smith-agent 0.1.0, process 155, over 10 minutes

| see | do |
| --- | --- |
| \`... is gone\` | \`systemctl status x\` |

\`\`\`toml
key = \`smith no\`
\`\`\`

## Second
Nothing.
`
  t.same(sectionsOf(text), [
    {
      heading: 'First',
      commands: ['smith retry CHG1 web-2', 'smith skip', 'systemctl status x', 'smith user add igorina --role bot'],
      options: ['--reason R'],
      seen: ['Held: it ... failed', '... is gone'],
    },
  ])
  t.match('Held:  it has\n failed.', patternOf('Held: it ... failed'))
  t.notMatch('Waiting: it has failed', patternOf('Held: it ... failed'))
  t.end()
})

t.test('[OPS-3] what was left out is named, and what is not written there is not typed', async (t) => {
  const section = {
    heading: 'First',
    commands: ['true --one', 'true --two --why R'],
    options: ['--two', '--three'],
    seen: ['Held: ...'],
  }
  const book = openRunbook(['First'], [section])
  const page = book.page(t, 'First')
  await page.type('true --two --why R')
  await t.rejects(page.type('true --four'), /"First" does not say: true --four/)
  t.throws(() => page.sees('Waiting: ...', ''), /does not say/)
  t.throws(() => page.leave('true --five', 'OPS-3'), /does not say/)
  t.throws(() => book.page(t, 'Second'), /there is no section Second/)
  t.same(book.left(), ['First: true --one', 'First: --three', 'First: Held: ...'])
})
