// Markdown of model cards as elements. No HTML is ever parsed: what stands in a card as HTML is shown as text.

import { type Token, type Tokens, lexer } from "marked";
import type { ComponentChildren } from "preact";

export function Markdown({ text }: { text: string }) {
  return <div class="markdown">{lexer(text).map(block)}</div>;
}

function block(token: Token): ComponentChildren {
  switch (token.type) {
    case "heading": {
      // The page's own headings end at h2.
      const Level = `h${Math.min((token as Tokens.Heading).depth + 2, 6)}` as "h3";
      return <Level>{inline(token.tokens)}</Level>;
    }
    case "paragraph":
      return <p>{inline(token.tokens)}</p>;
    case "list": {
      const List = (token as Tokens.List).ordered ? "ol" : "ul";
      return <List>{(token as Tokens.List).items.map((item) => <li>{item.tokens.map(block)}</li>)}</List>;
    }
    case "table": {
      const { header, rows } = token as Tokens.Table;
      return (
        <table>
          <thead>
            <tr>{header.map((cell) => <th scope="col">{inline(cell.tokens)}</th>)}</tr>
          </thead>
          <tbody>{rows.map((row) => <tr>{row.map((cell) => <td>{inline(cell.tokens)}</td>)}</tr>)}</tbody>
        </table>
      );
    }
    case "code":
      return <pre><code>{(token as Tokens.Code).text}</code></pre>;
    case "blockquote":
      return <blockquote>{(token.tokens ?? []).map(block)}</blockquote>;
    case "hr":
      return <hr />;
    case "space":
      return null;
    case "text":
      return token.tokens ? inline(token.tokens) : (token as Tokens.Text).text;
    default:
      return token.raw;
  }
}

function inline(tokens: Token[] | undefined): ComponentChildren {
  return (tokens ?? []).map((token) => {
    switch (token.type) {
      case "strong":
        return <strong>{inline(token.tokens)}</strong>;
      case "em":
        return <em>{inline(token.tokens)}</em>;
      case "del":
        return <del>{inline(token.tokens)}</del>;
      case "codespan":
        return <code>{(token as Tokens.Codespan).text}</code>;
      case "br":
        return <br />;
      case "link": {
        const { href } = token as Tokens.Link;
        return /^https?:\/\//.test(href) ? (
          <a href={href} rel="noreferrer noopener" target="_blank">
            {inline(token.tokens)}
          </a>
        ) : (
          inline(token.tokens)
        );
      }
      case "escape":
        return (token as Tokens.Escape).text;
      case "text": {
        const { tokens, text } = token as Tokens.Text;
        return tokens ? inline(tokens) : text;
      }
      default:
        return token.raw;
    }
  });
}
