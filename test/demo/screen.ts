/** What the demo says: headings, commands as they are typed, and the output of programs as it comes. */
import { styleText } from 'node:util'

const out = process.stdout
const paint = (style: Parameters<typeof styleText>[0], text: string) => styleText(style, text, { stream: out })

export function heading(text: string): void {
  out.write(`\n${paint('bold', text)}\n`)
}

export function say(text: string): void {
  out.write(`${text}\n`)
}

/** A command that the viewer could type. */
export function typed(text: string): void {
  out.write(`\n${paint('cyan', `$ ${text}`)}\n`)
}
