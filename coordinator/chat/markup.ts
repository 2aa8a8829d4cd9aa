/**
 * Text and blocks as Slack takes them. Pure. Whatever comes from a machine or a person is escaped, and everything is
 * cut to the sizes of Slack, which its client libraries do not check.
 */
import { type ShownRefusal, refusalLines } from '../client/failure.ts'
import { visibleText } from '../client/text.ts'
import type { Block, Content } from './ports.ts'

/** Aimed at; Slack itself cuts at 40,000. */
export const TEXT_MAX = 3800
const SECTION_MAX = 2900
const CONFIRM_TEXT_MAX = 290

/** Only these three characters mean anything to Slack (its own advice); no other entity is known there. */
export function escaped(text: string): string {
  return visibleText(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/** A name or number between the marks of code. */
export function code(text: string): string {
  return `\`${escaped(text).replaceAll('`', "'")}\``
}

/** Lines as they stand; the marks that would end the block are broken up. */
export function codeBlock(lines: readonly string[], max = TEXT_MAX): string {
  const text = escaped(lines.join('\n')).replaceAll('```', "'''")
  return `\`\`\`\n${cutEnd(text, max - 10)}\n\`\`\``
}

/** The beginning, with a word that there was more. */
export function cutEnd(text: string, max = TEXT_MAX): string {
  if (text.length <= max) return text
  const kept = text.slice(0, max - 20)
  return `${kept.slice(0, Math.max(kept.lastIndexOf('\n'), max - 200)).replace(/&[a-z]*$/, '')}\n... (cut)`
}

/** Text in messages of a size that Slack takes, cut between lines where there are some. */
export function pieces(text: string): string[] {
  const found: string[] = []
  let open = ''
  for (const line of text.split('\n')) {
    for (let rest = line; ; rest = rest.slice(TEXT_MAX)) {
      const part = rest.slice(0, TEXT_MAX)
      if (open.length + part.length + 1 > TEXT_MAX) {
        found.push(open)
        open = part
      } else open = open === '' ? part : `${open}\n${part}`
      if (rest.length <= TEXT_MAX) break
    }
  }
  return open === '' ? found : [...found, open]
}

export function refusalText(refusals: readonly ShownRefusal[], asked: string | null): string {
  const bare = (text: string) => text
  const paint = { bad: bare, good: bare, warn: bare, busy: bare, strong: bare, faint: bare }
  return codeBlock(refusals.flatMap((refusal) => refusalLines(refusal, { asked, columns: 90, paint })))
}

export type Button = {
  readonly action: string
  readonly value: string
  readonly label: string
  readonly style?: 'primary' | 'danger'
  /** Asked once more by Slack itself. */
  readonly confirm?: { readonly title: string; readonly text: string; readonly yes: string }
}

/** A text with buttons under it; the text alone is what a notification shows. */
export function withButtons(text: string, buttons: readonly Button[]): Content {
  const section: Block = { type: 'section', text: { type: 'mrkdwn', text: cutEnd(text, SECTION_MAX) } }
  const plainText = (value: string, max: number) => ({ type: 'plain_text', text: value.slice(0, max) })
  const elements = buttons.map(({ action, value, label, style, confirm }) => ({
    type: 'button',
    action_id: action,
    value,
    text: plainText(label, 75),
    ...(style === undefined ? {} : { style }),
    ...(confirm === undefined
      ? {}
      : {
          confirm: {
            title: plainText(confirm.title, 100),
            text: plainText(confirm.text, CONFIRM_TEXT_MAX),
            confirm: plainText(confirm.yes, 30),
            deny: plainText('No', 30),
          },
        }),
  }))
  return { text: cutEnd(text, SECTION_MAX), blocks: [section, { type: 'actions', elements }] }
}

/** An instant in the time zone of whoever reads. */
export function timeText(at: number): string {
  const utc = new Date(at).toISOString().replace('T', ' ').slice(0, 19)
  return `<!date^${Math.floor(at / 1000)}^{date_short_pretty} {time_secs}|${utc} UTC>`
}
