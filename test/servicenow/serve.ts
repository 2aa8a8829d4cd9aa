/**
 * A stand-in of ServiceNow to be used by hand: says where it is and takes lines: `list`, `approve CHG`, `reject CHG WHY`,
 * `hold CHG`, `release CHG`, `revert CHG`, `set NUMBER COLUMN VALUE`, `strict`, `html`, `down`, `up`.
 */
import { createInterface } from 'node:readline'
import { GROUP } from './records.ts'
import { SECRET, StandIn, serveStandIn } from './stand-in.ts'

const standIn = new StandIn()
const { records } = standIn
const served = await serveStandIn(standIn, Number(process.argv[2] ?? 0))
const say = (text: string) => void process.stdout.write(`${text}\n`)
say(`url = "${served.url}"\nclient_id = "smith"\nassignment_group = "${GROUP}"\nThe secret: ${SECRET}`)
const acts: { readonly [verb: string]: (number: string, ...rest: string[]) => void } = {
  list: () => {
    for (const row of [...records.all('change_request'), ...records.all('change_task')])
      say(`${row['number']} state ${row['state']} approval ${row['approval'] ?? ''} ${row['short_description']}`)
  },
  approve: (number) => records.approve(number),
  reject: (number, ...why) => records.reject(number, why.join(' ')),
  hold: (number) => records.hold(number, true),
  release: (number) => records.hold(number, false),
  revert: (number) => records.revert(number),
  set: (number, column = '', ...value) => records.edit(number, { [column]: value.join(' ') }),
  strict: () => (records.rules.strict = !records.rules.strict),
  html: () => (standIn.fault = () => 'html'),
  down: () => (standIn.fault = () => ({ status: 503 })),
  up: () => (standIn.fault = () => undefined),
}
createInterface({ input: process.stdin }).on('line', (line) => {
  const [verb = '', number = '', ...rest] = line.trim().split(' ')
  try {
    if (acts[verb] === undefined) say(`known: ${Object.keys(acts).join(', ')}`)
    else acts[verb](number, ...rest)
  } catch (error) {
    say(String(error))
  }
})
